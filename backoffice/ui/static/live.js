// One event stream a page. What it tells reaches listeners as events of the document, and the parts of the page
// with data-live are fetched again and morphed, so that focus, selection and scrolling stay.
/* global htmx */
import { keepRow } from './keys.js'
import { say } from './words.js'

const SESSION_MS = 15000, AGAIN_MS = 5000
let source = null, timer = null, busy = false, again = false, last = 0, paused = false

export function listen() {
  const { topics } = document.body.dataset
  if (topics) connect(topics.split(','))
  addEventListener('pagehide', () => source?.close())
  setInterval(check, SESSION_MS)
  const pause = document.querySelector('[data-pause]')
  pause?.addEventListener('click', () => {
    paused = !paused
    pause.setAttribute('aria-pressed', paused)
    pause.textContent = say(paused ? 'Go on' : 'Pause')
    if (!paused) refresh()
  })
}

function connect(topics) {
  const link = document.getElementById('link')
  const tell = (on) => {
    link.textContent = say(on ? 'Live' : 'connecting again')
    link.classList.toggle('off', !on)
  }
  source = new EventSource(`/api/v1/live?topics=${encodeURIComponent(topics.join(','))}`)
  source.onopen = () => { tell(true); refresh() }
  source.onerror = ({ target }) => {
    tell(false)
    check()
    // Browsers come again by themselves after a lost connection, but not after a refusal (too many pages, no database).
    if (target.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN_MS, topics)
  }
  for (const topic of [...topics, 'gap']) {
    source.addEventListener(topic, (event) => {
      document.dispatchEvent(new CustomEvent(`live:${topic}`, { detail: JSON.parse(event.data) }))
      if (topic === 'gap' || topic === 'alarms' || parts().some((part) => part.dataset.live.split(' ').includes(topic))) {
        refresh()
      }
    })
  }
}

// Whoever was logged out elsewhere sees it without touching anything.
async function check() {
  const answer = await fetch('/api/v1/session').catch(() => null)
  if (answer?.status === 401) location.reload()
}

const parts = () => [...document.querySelectorAll('[data-live]')]

export function refresh() {
  const every = Math.max(1000, ...parts().map((part) => Number(part.dataset.every ?? 0)))
  again = true
  if (timer === null && !busy) timer = setTimeout(load, Math.max(150, last + every - Date.now()))
}

async function load() {
  timer = null
  if (paused || document.hidden) return
  busy = true
  again = false
  last = Date.now()
  const answer = await fetch(location.href, { redirect: 'manual' }).catch(() => null)
  if (answer?.type === 'opaqueredirect') return location.reload()
  if (answer?.ok) {
    const text = await answer.text()
    const untouched = parts().filter((part) => !part.querySelector('[data-row] input:checked'))
    for (const target of [...untouched, document.getElementById('top-state')]) {
      await htmx.swap({ text: keep(text), target, select: `#${target.id}`, swap: 'outerMorph' })
    }
  }
  label()
  keepRow()
  busy = false
  if (again) refresh()
}

// On a narrow screen a row is a card; each cell then begins with its column's name.
export function label() {
  for (const table of document.querySelectorAll('table.stack')) {
    const names = [...table.querySelectorAll('thead th')].map((cell) => cell.textContent)
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, index) => { cell.dataset.label = names[index] })
    }
  }
}

// The dot beside the alarms is this script's, not the server's.
function keep(text) {
  const link = document.getElementById('link')
  return text.replace('<span class="link" id="link" role="status"></span>', () => link.outerHTML)
}

document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh() })
