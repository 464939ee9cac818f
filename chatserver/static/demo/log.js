// The list of messages. Whatever people wrote goes in as text, never as markup.

import { clock, day, refusal } from '/demo/words.js'

const TOGETHER_MS = 5 * 60000 // messages of one person within this stand under one name
const NEAR = 80 // px from the end that count as being there

export class Log {
  constructor({ log, scroll, earlier, empty, newest }, { older, again, discard }) {
    Object.assign(this, { log, scroll, earlier, empty, newest, again, discard })
    this.atEnd = true
    newest.addEventListener('click', () => this.toEnd())
    scroll.addEventListener('scroll', () => {
      this.atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR
      if (this.atEnd) newest.hidden = true
      if (scroll.scrollTop < NEAR) older()
    }, { passive: true })
    // A keyboard on a phone, or a composer that grows, must not hide what was in view.
    new ResizeObserver(() => this.atEnd && this.toEnd()).observe(scroll)
  }

  /** Show a room. With `quiet` nothing of it is read out: it is old. */
  show(room, me, { quiet = false, keep = false } = {}) {
    const { log, scroll } = this
    const before = scroll.scrollHeight - scroll.scrollTop
    const known = new Map([...log.children].map((row) => [row.dataset.key, row]))
    log.parentElement.setAttribute('aria-live', quiet ? 'off' : 'polite')
    const rows = []
    let last = null
    for (const item of [...room.items, ...room.pending.map((own) => ({ ...own, kind: 'message', user: me.user, name: me.name }))]) {
      if (item.ts && (!last || day(last.ts) !== day(item.ts))) rows.push(divider(day(item.ts)))
      const follows = last?.kind === 'message' && item.kind === 'message' && last.user === item.user &&
        item.ts - last.ts < TOGETHER_MS && day(last.ts) === day(item.ts)
      const look = `${item.text === null}|${item.status}|${item.why?.code}|${follows}`
      const old = known.get(item.key)
      rows.push(old?.dataset.look === look ? old : this.row(item, follows, look, item.user === me.user))
      last = item
    }
    place(log, rows)
    this.empty.hidden = rows.length > 0 || !room.joined
    this.earlier.textContent = room.more || !rows.length ? '' : 'This is where the history begins'
    if (this.atEnd && !keep) this.toEnd()
    else if (keep) scroll.scrollTop = scroll.scrollHeight - before
  }

  toEnd() {
    this.atEnd = true
    this.scroll.scrollTop = this.scroll.scrollHeight
    this.newest.hidden = true
  }

  row(item, follows, look, mine) {
    const row = make('li', item.kind)
    row.dataset.key = item.key
    row.dataset.look = look
    if (item.kind !== 'message') {
      if (item.level === 'warning') row.classList.add('warning')
      row.append(make('p', 'text', item.text ?? 'This notice was deleted'))
      return row
    }
    row.classList.toggle('follows', follows)
    row.classList.toggle('mine', mine)
    row.classList.toggle('deleted', item.text === null)
    if (item.status) row.classList.add(item.status)
    const time = make('time', '', clock(item.ts))
    time.dateTime = new Date(item.ts).toISOString()
    const name = make('bdi', 'name', item.name)
    name.title = item.user
    const who = make('p', 'who')
    who.append(name, ' ', time)
    const text = make('p', 'text', item.text ?? 'Message deleted')
    text.dir = 'auto'
    const body = make('div', 'body')
    body.append(who, text)
    if (item.status === 'failed') body.append(this.failure(item))
    row.append(face(item.user, item.name), body)
    return row
  }

  failure(item) {
    const line = make('p', 'why', `Not sent: ${item.words ?? refusal(item.why)}. `)
    for (const [word, act] of [['Try again', this.again], ['Discard', this.discard]]) {
      const button = make('button', 'plain', word)
      button.type = 'button'
      button.addEventListener('click', () => act(item.key))
      line.append(button, ' ')
    }
    return line
  }
}

export function make(tag, className = '', text) {
  const made = document.createElement(tag)
  if (className) made.className = className
  if (text !== undefined) made.textContent = text
  return made
}

/** A coloured disc with somebody's first letter. */
export function face(user, name, disc = make('span', 'face')) {
  let hue = 7
  for (const letter of user) hue = (hue * 31 + letter.codePointAt(0)) % 360
  disc.style.setProperty('--hue', hue)
  disc.textContent = [...name.trim()][0]?.toUpperCase() ?? '?'
  disc.setAttribute('aria-hidden', 'true')
  return disc
}

function divider(words) {
  const row = make('li', 'divider')
  row.dataset.key = `day-${words}`
  row.dataset.look = ''
  row.append(make('span', '', words))
  return row
}

/** Make `rows` the children of `parent`, leaving alone those that stand where they should. */
function place(parent, rows) {
  const wanted = new Set(rows)
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove()
  rows.forEach((row, at) => parent.children[at] === row || parent.insertBefore(row, parent.children[at] ?? null))
}
