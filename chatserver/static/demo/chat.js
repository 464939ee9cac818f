// The demo chat page: one client, its rooms, and what is shown of them.

import { ChatClient } from '/client.js'
import { Composer } from '/demo/composer.js'
import { Log, face, make } from '/demo/log.js'
import { Room } from '/demo/room.js'
import { NotSignedIn, signIn, signOut, signedIn, themes, token } from '/demo/session.js'
import { ended, people, refusal, sanction } from '/demo/words.js'

const $ = (id) => document.getElementById(id)
const FLASH_S = 10
const RESUMED_MS = 6000

const rooms = new Map()
let client = null
let me = null
let room = null // the one that is shown
let node = ''
let due = false
let sent = 0

const log = new Log(
  { log: $('log'), scroll: $('scroll'), earlier: $('earlier'), empty: $('empty'), newest: $('newest') },
  { older, again: (key) => attempt(room, own(key)), discard: (key) => (room.pending.splice(room.pending.indexOf(own(key)), 1), render()) },
)
const composer = new Composer(
  { form: $('composer'), text: $('text'), left: $('left'), send: $('send'), banner: $('banner'), words: $('banner-text'), button: $('banner-button') },
  { say, comeBack: join },
)

// The door

themes($('theme'))
$('sign-in').addEventListener('submit', async (event) => {
  event.preventDefault()
  const button = event.submitter
  button.disabled = true
  try {
    await signIn($('name').value)
    await enter()
  } catch (error) {
    door(error.message)
  }
  button.disabled = false
})
$('sign-out').addEventListener('click', () => leave())
if (signedIn()) enter().catch((error) => door(error.message))
else door()

function door(words = '') {
  $('chat').hidden = true
  $('door').hidden = false
  $('door-alert').hidden = !words
  $('door-alert').textContent = words
  $('name').focus()
}

function leave(words) {
  signOut()
  client?.close()
  client = null
  rooms.clear()
  room = null
  document.title = 'Demo chat'
  $('flashes').replaceChildren()
  door(words)
}

async function enter() {
  const answer = await fetch('/demo/rooms').then((response) => response.json())
  if (!answer.rooms) throw new Error('The chat cannot be reached right now. Try again in a moment.')
  for (const each of answer.rooms) rooms.set(each.id, new Room(each))
  const here = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws`
  client = new ChatClient([here, ...answer.nodes], freshToken, { name: 'demo page' })
  $('door').hidden = true
  $('chat').hidden = false
  link('busy', '', 'Connecting …')
  listen(client)
  try {
    await client.connect()
  } catch {
    return // whoever listens says why
  }
  if (rooms.size) turnTo(rooms.values().next().value)
  else {
    $('title').textContent = 'No rooms yet'
    $('empty').hidden = false
    $('empty').textContent = 'An operator opens the first one; load this page again then.'
    $('composer').hidden = true
  }
  for (const each of rooms.values()) join(each)
}

async function freshToken() {
  try {
    return await token()
  } catch (error) {
    if (error instanceof NotSignedIn) queueMicrotask(() => leave('Please sign in again.'))
    throw error
  }
}

// What comes

async function listen(mine) {
  try {
    for await (const event of mine) if (mine === client) hear(event)
  } catch (error) {
    if (mine === client) leave(ended(error))
  }
}

function hear(event) {
  const there = rooms.get(event.room)
  switch (event.type) {
    case 'connected':
      me = event.user
      node = event.node
      composer.limit = event.limits.text_chars
      face(me.user, me.name, $('me-face'))
      $('me-name').textContent = me.name
      $('me-id').textContent = me.user
      return link('well', 'Connected to ', node)
    case 'reconnecting':
      return link('busy', '', 'Reconnecting …')
    case 'resumed':
      there.take(event)
      if (!event.recovered) log.atEnd = true
      link('well', '', `Resumed on ${node}`)
      setTimeout(() => $('link').textContent.startsWith('Resumed') && link('well', 'Connected to ', node), RESUMED_MS)
      break
    case 'left':
      put(there, event.code, `${refusal(event)}.`)
      break
    case 'presence':
      there.people = event.count
      break
    case 'sanction':
      punish(event, there)
      break
    case 'notice':
      if (event.offset === undefined) return flash(event.text, event.level, event.seconds ?? FLASH_S)
    default: // what travels on the room's channel
      if (there?.push(event, me.user)) unread(there, event)
  }
  render()
}

function unread(there, event) {
  if (there !== room || document.hidden) there.unread += event.user !== me.user
  if (there === room && !log.atEnd && event.user !== me.user) $('newest').hidden = false
}

function punish(event, there) {
  const words = sanction(event)
  for (const each of event.room === null ? rooms.values() : there ? [there] : []) each.sanction(event, words)
  if (event.kind === 'warn') flash(words, 'warning')
  else if (event.kind === 'unmute') flash(words, 'info', FLASH_S)
  else if (event.kind === 'unban' && there) join(there)
}

function put(there, code, words) {
  there.joined = false
  const kind = code === 'banned' ? 'ban' : code === 'room_closed' ? 'closed' : code
  there.out = { words: words[0].toUpperCase() + words.slice(1), kind, until: there.out?.until }
}

// What the user does

async function join(there) {
  const mine = client
  try {
    there.take(await mine.join(there.id), { afresh: true })
  } catch (error) {
    if (mine !== client) return
    put(there, error.code, `${refusal(error)}.`)
  }
  render({ quiet: true })
}

function turnTo(there) {
  room = there
  room.unread = 0
  log.atEnd = true
  $('newest').hidden = true
  composer.turnTo(room)
  draw({ quiet: true })
  if (matchMedia('(min-width: 720px)').matches) $('text').focus()
}

function say(there, text) {
  const nonce = crypto.getRandomValues(new Uint32Array(4)).join('-')
  const mine = { key: `own-${++sent}`, text, ts: Date.now(), nonce, status: 'sending' }
  there.pending.push(mine)
  log.atEnd = true
  attempt(there, mine)
}

const own = (key) => room.pending.find((each) => each.key === key)

async function attempt(there, mine) {
  mine.status = 'sending'
  render()
  try {
    const { message_id, ts } = await client.say(there.id, mine.text, mine.nonce)
    mine.messageId = message_id
    there.wrote(ts)
    if (there.items.some(({ key }) => key === message_id)) there.pending = there.pending.filter((each) => each !== mine)
  } catch (error) {
    mine.status = 'failed'
    mine.why = error
    if (error.code === 'slow_mode') there.mayWriteAt = Date.now() + (error.retry_after_ms ?? 0)
  }
  render()
}

async function older() {
  const there = room
  if (!there?.joined || !there.more || there.asking) return
  there.asking = true
  $('earlier').textContent = 'Loading …'
  try {
    there.older(await client.history(there.id, { before: there.oldest, limit: 50 }))
  } catch {
    return // scrolling asks again
  } finally {
    there.asking = false
  }
  if (there === room) draw({ quiet: true, keep: true })
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden || !room) return
  room.unread = 0
  render()
})

// What is shown

/** `verb` is not seen on narrow screens. */
function link(state, verb, words) {
  $('link').className = `link ${state}`
  if ($('link').textContent !== verb + words) $('link').replaceChildren(make('span', 'verb', verb), words)
}

/** Once for all that comes before the next frame. */
function render({ quiet = false } = {}) {
  if (due) return
  due = true
  setTimeout(() => {
    due = false
    if (room) draw({ quiet })
  })
}

function draw(how) {
  if (log.atEnd) room.trim()
  log.show(room, me, how)
  composer.update(room)
  $('title').textContent = room.title
  $('room-state').hidden = room.state === 'open' && !room.slow
  $('room-state').className = `chip ${room.state}`
  $('room-state').textContent = room.state === 'open' ? `slow mode ${room.slow} s` : room.state
  $('people').textContent = room.joined ? people(room.people) : ''
  $('empty').textContent = 'Nobody has said anything here yet. Say hello!'
  drawRooms()
  if ($('scroll').scrollHeight <= $('scroll').clientHeight) older()
}

function drawRooms() {
  const waiting = [...rooms.values()].reduce((sum, each) => sum + each.unread, 0)
  document.title = `${waiting ? `(${waiting}) ` : ''}${room.title} – Demo chat`
  $('rooms').replaceChildren(...[...rooms.values()].map((each) => {
    const row = each.row ?? roomRow(each)
    row.button.toggleAttribute('aria-current', each === room)
    row.name.textContent = each.title
    row.badge.textContent = each.unread > 99 ? '99+' : each.unread || ''
    row.badge.hidden = !each.unread
    row.button.classList.toggle('out', !each.joined)
    return row.line
  }))
}

function roomRow(each) {
  const [line, button, name, badge] = [make('li'), make('button'), make('bdi', 'room-name'), make('span', 'badge')]
  button.type = 'button'
  badge.setAttribute('aria-label', 'unread')
  button.append(name, badge)
  button.addEventListener('click', () => turnTo(each))
  line.append(button)
  return (each.row = { line, button, name, badge })
}

/** A word above everything, for some seconds or until it is put away. */
function flash(words, level, seconds) {
  const note = make('div', `flash ${level}`)
  const away = make('button', 'quiet', '×')
  away.type = 'button'
  away.setAttribute('aria-label', 'Dismiss')
  const text = make('span', '', words)
  text.dir = 'auto'
  note.append(text, away)
  away.addEventListener('click', () => note.remove())
  $('flashes').append(note)
  while ($('flashes').children.length > 4) $('flashes').firstChild.remove()
  if (seconds) setTimeout(() => note.remove(), seconds * 1000)
}
