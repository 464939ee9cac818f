// Acts: a button says in data-act what it would do; a dialog asks for the rest, the API does it, and what came of
// it is told until the command ends. Nothing that was written is lost when a request fails.
import { dryRun, goOn } from './bulk.js'
import { call, key } from './call.js'
import { card, make, smallButton } from './cards.js'
import { refresh } from './live.js'
import { explain, fill, say } from './words.js'

const ENDED = ['done', 'rejected', 'expired', 'dead', 'cancelled']
const LONGEST_MS = 600000

export function acts() {
  document.addEventListener('click', (event) => {
    const button = event.target.closest('[data-act], [data-why]')
    if (!button) return
    if (button.dataset.why) return card('bad', button.dataset.why)
    const act = JSON.parse(button.dataset.act)
    if (act.selected) selected(act)
    ask(act)
  })
  for (const form of document.querySelectorAll('form[data-form]')) {
    form.addEventListener('submit', (event) => {
      event.preventDefault()
      const act = JSON.parse(form.dataset.form)
      if (act.sentence) confirm(act, form)
      else send(act, form)
    })
  }
}

function selected(act) {
  const ids = [...document.querySelectorAll('[data-row] input[type=checkbox]:checked')].map((box) => box.value)
  if (!ids.length) return
  act.body = { ids }
  act.sentence = `${act.selected} ${say('{n} selected', { n: ids.length })}`
}

// What a form wants is asked about where it matters, in the words of what it is about.
function confirm(act, filled) {
  let sent
  clear(filled)
  try {
    sent = body(act, filled)
  } catch (error) {
    return fault(filled, null, String(error.message))
  }
  const what = (sent.subject ?? sent.scope).replace(/^.*?:/, '')
  const sentence = sent.scope === 'all' ? act.to_all : fill(act.sentence, { what, user: sent.payload?.user })
  const go = () => {
    send(act, filled) // which shows there what was wrong
    return true
  }
  ask({ ...act, sentence, fields: [], typed: act.typed && what }, go)
}

function ask(act, submit = send) {
  const dialog = document.getElementById('act')
  const form = make('form', { className: 'fields', noValidate: false })
  const title = make('h2', { id: 'act-title', textContent: act.label })
  form.append(title, make('p', { textContent: act.sentence }))
  for (const field of act.fields) form.append(labelled(field))
  const go = make('button', { className: `primary${act.danger ? ' danger' : ''}`, textContent: act.label })
  if (act.typed) {
    const input = make('input', { autocomplete: 'off', spellcheck: false })
    form.append(make('label', { textContent: say('Write {name} to go on', { name: act.typed }) }, input))
    go.disabled = true
    input.addEventListener('input', () => { go.disabled = input.value !== act.typed })
  }
  const stop = make('button', { type: 'button', textContent: say('Cancel') })
  stop.addEventListener('click', () => dialog.close())
  const buttons = make('div', { className: 'buttons' }, stop, go)
  form.append(buttons)
  if (act.bulk) {
    const { button, said } = dryRun(act, form, body)
    buttons.before(said)
    go.before(button)
  }
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    if (await submit(act, form)) dialog.close()
  })
  dialog.setAttribute('aria-labelledby', 'act-title')
  dialog.replaceChildren(form)
  dialog.showModal()
  form.querySelector('input, select, textarea')?.focus()
}

function labelled(field) {
  let input
  if (field.choices) {
    input = make('select')
    for (const [value, text] of field.choices) input.append(new Option(text, value))
    input.value = field.value ?? field.choices[0][0]
  } else if (field.kind === 'long' || field.kind === 'json') {
    input = make('textarea', { value: field.value ?? '', maxLength: field.most ?? -1 })
  } else {
    input = make('input', { type: field.kind === 'number' ? 'number' : 'text', value: field.value ?? '' })
    if (field.most && field.kind !== 'number') input.maxLength = field.most
  }
  Object.assign(input, { name: field.into, required: Boolean(field.required) })
  input.dataset.kind = field.kind
  return make('label', { textContent: field.label }, input)
}

// Fields are named by a JSON pointer into the body; those left empty are left out.
function body(act, form) {
  const sent = structuredClone(act.body ?? {})
  for (const input of form.querySelectorAll('[name^="/"]')) {
    const value = read(input)
    if (value === undefined) continue
    const parts = input.name.split('/').slice(1)
    let place = sent
    for (const part of parts.slice(0, -1)) place = place[part] ??= {}
    place[parts.at(-1)] = value
  }
  if (act.command) sent.payload ??= {}
  return sent
}

function read(input) {
  const text = input.value.trim()
  switch (input.dataset.kind) {
    case 'check': return input.checked
    case 'number': return text === '' ? undefined : Number(text)
    case 'list': return text === '' ? undefined : text.split(/[\s,]+/)
    case 'json': return text === '' ? undefined : JSON.parse(text)
    case 'time': return text === '' ? undefined : new Date(text).toISOString()
    case 'room': return text === '' ? undefined : `room:${text}`
    default: return text === '' ? undefined : text
  }
}

// True once the server has taken it.
async function send(act, form) {
  clear(form)
  let sent
  try {
    sent = act.method === 'DELETE' ? null : body(act, form)
  } catch (error) {
    fault(form, null, String(error.message))
    return false
  }
  const buttons = form.querySelectorAll('button')
  buttons.forEach((button) => { button.disabled = true })
  form.dataset.key ??= key()
  const { answer, told } = await call(act, sent, { idempotencyKey: form.dataset.key })
  buttons.forEach((button) => { button.disabled = false })
  if (!answer?.ok) {
    if (answer?.status === 401) return false
    if (!answer || answer.status >= 500 || answer.status === 429) fault(form, null, explain('problem', told.code, told.detail))
    else {
      delete form.dataset.key
      for (const { path, code, message } of told.errors ?? []) fault(form, path, explain('fault', code, message))
      if (!told.errors?.length) fault(form, null, explain('problem', told.code, told.detail))
    }
    form.querySelector('[aria-invalid]')?.focus()
    return false
  }
  delete form.dataset.key
  if (act.undone_by) act.undo = inverse(act, sent)
  follow(act, sent, told)
  return true
}

// What takes back a command that was written in a form.
function inverse(act, sent) {
  const payload = sent.payload?.user === undefined ? {} : { user: sent.payload.user }
  return { ...act, undone_by: undefined, body: { type: act.undone_by, subject: sent.subject, payload, reason: 'undo' } }
}

function clear(form) {
  form.querySelectorAll('.fault').forEach((each) => each.remove())
  form.querySelectorAll('[aria-invalid]').forEach((each) => {
    each.removeAttribute('aria-invalid')
    each.removeAttribute('aria-describedby')
  })
}

let faults = 0

function fault(form, path, text) {
  const input = path && [...form.querySelectorAll('[name^="/"]')].find(
    ({ name }) => path === name || path.startsWith(`${name}/`))
  const line = make('p', { className: 'fault', id: `fault-${++faults}`, textContent: text })
  line.setAttribute('role', 'alert')
  if (!input) return form.querySelector('.buttons, button').before(line)
  input.setAttribute('aria-invalid', 'true')
  input.setAttribute('aria-describedby', line.id)
  input.after(line)
}

// What came of it

function follow(act, sent, told) {
  for (const box of document.querySelectorAll('[data-row] input:checked')) box.checked = false
  refresh()
  if (act.show) {
    const secret = told[act.show]
    const shown = card('ok', `${act.told ?? act.label}: ${say('done')}`)
    if (secret) shown.line.after(make('p', { textContent: say('Shown once: keep it now') }),
      make('code', { className: 'secret', textContent: secret }))
    return
  }
  if (act.bulk) return goOn(act, sent, told)
  if (!act.command) return card('ok', `${act.told ?? act.label}: ${say('done')}`)
  const details = make('a', { className: 'button small', href: `/commands/${told.id}`, textContent: say('Details') })
  const shown = card('', '', details)
  shown.told = act.told ?? `${told.type} ${told.subject}`
  tell(act, shown, told)
}

async function tell(act, shown, first) {
  const began = Date.now()
  for (let told = first, pause = 500; ; pause = Math.min(pause * 2, 5000)) {
    shown.line.textContent = `${shown.told}: ${ending(told)}`
    if (ENDED.includes(told.state)) {
      shown.box.classList.add(told.state === 'done' ? 'ok' : 'bad')
      if (told.state === 'done' && act.undo) shown.box.querySelector('.buttons').prepend(undo(act.undo, shown))
      return refresh()
    }
    if (Date.now() - began > LONGEST_MS || !shown.box.isConnected) return
    await new Promise((go) => setTimeout(go, pause))
    const answer = await fetch(`/api/v1/commands/${first.id}`).catch(() => null)
    if (answer?.ok) told = await answer.json()
  }
}

function ending(command) {
  if (command.state !== 'done') return say(command.state) + (command.error ? `: ${explain('error', command.error.code, command.error.message)}` : '')
  const ms = new Date(command.timeline.at(-1).at) - new Date(command.issued_at)
  const said = [say('done on {node} in {ms} ms', { node: command.node, ms })]
  const { receipts = [], missing_nodes: missing = [] } = command
  if (receipts.length) said.push(say('{n} sessions', { n: receipts.reduce((sum, { sessions }) => sum + sessions, 0) }))
  if (receipts.length || missing.length) {
    said.push(say('{n} of {all} nodes', { n: receipts.length, all: receipts.length + missing.length }))
  }
  if (missing.length) said.push(say('no word from {nodes}', { nodes: missing.join(', ') }))
  return said.join(', ')
}

function undo(act, shown) {
  return smallButton(say('Undo'), async (button) => {
    button.disabled = true
    const { answer, told } = await call(act, act.body)
    if (!answer?.ok) {
      button.disabled = false
      return card('bad', explain('problem', told.code, told.detail))
    }
    shown.box.remove()
    follow(act, act.body, told)
  })
}
