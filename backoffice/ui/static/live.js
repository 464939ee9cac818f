// One event stream a page, while somebody sees it: browsers allow six connections to a host, of all tabs together.
// What it tells reaches listeners as events of the document, and the parts of the page with data-live are fetched
// again and morphed, so that focus, selection and scrolling stay.
/* global htmx */
import { keepRow } from './keys.js'
import { check, ended } from './session.js'
import { say } from './words.js'

const SESSION_MS = 15000, AGAIN_MS = 5000, PATIENCE_MS = 15000, LEAST_MS = 1000, MOST_MS = 16000
let topics = [], source = null, coming = null, opened = false, on = null // null: nobody knows yet
let timer = null, due = 0, wanted = Infinity, busy = false, last = 0, paused = false
let failures = 0, retry = null // of fetching the page

export function listen() {
  topics = document.body.dataset.topics.split(',').filter(Boolean)
  if (!document.hidden) connect()
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) return leave()
    connect()
    refresh()
  })
  addEventListener('pagehide', leave)
  setInterval(check, SESSION_MS)
  const pause = document.querySelector('[data-pause]')
  pause?.addEventListener('click', () => {
    paused = !paused
    pause.setAttribute('aria-pressed', paused)
    pause.textContent = say(paused ? 'Go on' : 'Pause')
    if (!paused) refresh()
  })
}

function leave() {
  clearTimeout(coming)
  clearTimeout(retry)
  source?.close()
  source = null
  if (on) light(false)
}

function connect() {
  if (source || !topics.length) return
  source = new EventSource(`/api/v1/live?topics=${encodeURIComponent(topics.join(','))}`)
  let anew = opened // and not from where it broke off, as a stream that the browser opens again by itself
  source.onopen = () => {
    if (anew) tell('gap', {})
    anew = false
    opened = true
    light(true)
    refresh()
  }
  source.onerror = ({ target }) => {
    light(false)
    check()
    // Browsers come again by themselves after a lost connection, but not after a refusal (too many pages, no database).
    if (target.readyState !== EventSource.CLOSED) return
    source = null
    coming = setTimeout(connect, AGAIN_MS)
  }
  for (const topic of [...topics, 'gap']) {
    source.addEventListener(topic, ({ data }) => {
      tell(topic, JSON.parse(data))
      const least = topic === 'gap' || topic === 'alarms' ? LEAST_MS : soonest(topic)
      if (least < Infinity) refresh(least)
    })
  }
}

const tell = (topic, detail) => document.dispatchEvent(new CustomEvent(`live:${topic}`, { detail }))
const parts = () => [...document.querySelectorAll('[data-live]')]

// How long after the last time what shows this may be fetched again. Somebody waits for what becomes of commands.
function soonest(topic) {
  if (paused) return Infinity
  const showing = parts().filter((part) => part.dataset.live.split(' ').includes(topic))
  return Math.min(Infinity, ...showing.map((part) => topic === 'commands' ? LEAST_MS : Number(part.dataset.every ?? LEAST_MS)))
}

export function refresh(least = LEAST_MS) {
  wanted = Math.min(wanted, least)
  if (busy) return
  const at = Math.max(Date.now() + 150, last + wanted)
  if (timer !== null && due <= at) return
  clearTimeout(timer)
  due = at
  timer = setTimeout(load, at - Date.now())
}

async function load() {
  timer = null
  if (document.hidden) return
  clearTimeout(retry)
  busy = true
  wanted = Infinity
  last = Date.now()
  const { status, text } = await read()
  const untouched = paused ? [] : parts().filter((part) => !part.querySelector('[data-row] input:checked'))
  const targets = [...untouched, document.getElementById('top-state')]
  const there = targets.filter(({ id }) => text.includes(` id="${id}"`))
  // What is not there of a page that says why it cannot be shown stays as it was, and is not called live; except
  // where what it showed is no more (a dead letter that was discarded), which asking again does not change.
  const whole = there.length === targets.length, gone = status === 404 && there.length > 0 && parts().length > 0
  failures = whole || gone ? 0 : failures + 1
  document.getElementById('gone').hidden = !gone
  for (const target of there) {
    await htmx.swap({ text: keep(text), target, select: `#${target.id}`, swap: `outerMorph ignoreTitle:${!whole}` })
  }
  light()
  label()
  keepRow()
  busy = false
  if (failures) retry = setTimeout(refresh, Math.min(LEAST_MS * 2 ** (failures - 1), MOST_MS))
  if (wanted < Infinity) refresh(wanted)
}

// The page as it is now; no text where nobody answers.
async function read() {
  try {
    const answer = await fetch(location.href, { headers: { Accept: 'text/html' }, redirect: 'manual', signal: AbortSignal.timeout(PATIENCE_MS) })
    if (answer.type === 'opaqueredirect') ended()
    return { status: answer.status, text: await answer.text() }
  } catch {
    return { status: 0, text: '' }
  }
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

function light(connected = on) {
  on = connected
  if (on === null) return
  const link = document.getElementById('link')
  link.textContent = say(!on ? 'connecting again' : failures ? 'cannot be refreshed' : 'Live')
  link.classList.toggle('off', !on || failures > 0)
}

// The dot beside the alarms is this script's, not the server's.
function keep(text) {
  const link = document.getElementById('link')
  return text.replace('<span class="link" id="link" role="status"></span>', () => link.outerHTML)
}
