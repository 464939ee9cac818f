// Whoever was logged out elsewhere sees it without touching anything. What somebody is writing stays: they log in
// in another tab, and try again.
import { make } from './cards.js'
import { say } from './words.js'

const PATIENCE_MS = 15000

export async function check() {
  const answer = await fetch('/api/v1/session', { signal: AbortSignal.timeout(PATIENCE_MS) }).catch(() => null)
  if (answer?.status === 401) ended()
  if (answer?.ok) document.querySelectorAll('.ended').forEach((line) => line.remove())
}

export function ended() {
  const form = document.querySelector('dialog#act[open] form') ?? [...document.querySelectorAll('form[data-form]')].find(written)
  if (!form) return location.reload()
  if (form.querySelector('.ended')) return
  const line = make('p', { className: 'fault ended', textContent: `${say('Your session has ended; nothing that you wrote is lost.')} ` },
    make('a', { href: '/login', target: '_blank', textContent: say('Log in, in another tab') }))
  line.setAttribute('role', 'alert')
  form.querySelector('.buttons').before(line)
}

const written = (form) => [...form.elements].some((input) => input.type === 'checkbox'
  ? input.checked !== input.defaultChecked
  : 'defaultValue' in input && input.value !== input.defaultValue)
