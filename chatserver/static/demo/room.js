// One room as this user knows it. No DOM.

const KEPT = 600 // messages in memory; older ones are fetched when scrolled to

export class Room {
  constructor({ id, title }) {
    this.id = id
    this.title = title || id
    this.items = [] // {key, kind: message notice gap, user, name, text, ts, level, status}, oldest first
    this.pending = [] // own ones that the channel has not shown yet: {key, text, ts, status, why, messageId}
    this.out = null // why this user is not in the room: {words, kind}
    this.state = 'open'
    this.slow = 0
    this.mayWriteAt = 0
    this.people = 0
    this.unread = 0
    this.sanctions = [] // mutes that hold, of the room and everywhere
    this.oldest = Infinity // offset of the oldest publication that was read
    this.more = true
    this.joined = false
  }

  /** The answer to a join, or `resumed`. */
  take(joined, { afresh = !joined.recovered } = {}) {
    const { title, state, slow_mode_s, count, sanctions, messages, offset } = joined
    const had = this.items.length > 0
    Object.assign(this, { title: title || this.id, state, slow: slow_mode_s, people: count, joined: true, out: null })
    this.sanctions = sanctions.filter(({ kind }) => kind === 'mute')
    if (!afresh) return
    this.items = messages.map(item).filter(Boolean)
    this.oldest = messages[0]?.offset ?? offset + 1
    this.more = this.items.length > 0
    if (had) this.items.unshift({ key: `gap-${offset}`, kind: 'gap', text: 'Some messages in between may be missing' })
  }

  /** A push of the room's channel; whether there is something to read. */
  push(push, me) {
    if (push.type === 'deleted') {
      const gone = new Set(push.message_ids)
      for (const shown of this.items) if (gone.has(shown.key)) shown.text = null
      return false
    }
    if (push.type === 'room') {
      Object.assign(this, { state: push.state, slow: push.slow_mode_s, title: push.title || this.id })
      if (!this.slow) this.mayWriteAt = 0
      return false
    }
    const shown = item(push)
    if (!shown || this.items.some(({ key }) => key === shown.key)) return false
    if (push.user === me) {
      const place = this.pending.findIndex((own) =>
        own.messageId ? own.messageId === shown.key : own.status === 'sending' && own.text === shown.text)
      if (place >= 0) this.pending.splice(place, 1)
      this.wrote(push.ts)
    }
    this.items.push(shown)
    return true
  }

  /** Forget the oldest while nobody looks at them. */
  trim() {
    if (this.items.length <= KEPT) return false
    this.items.splice(0, this.items.length - KEPT / 2)
    this.oldest = this.items.find(({ offset }) => offset !== undefined)?.offset ?? this.oldest
    this.more = true
    return true
  }

  /** A page of the history, to stand before the rest. */
  older({ messages, more }) {
    this.more = more && messages.length > 0
    if (messages.length) this.oldest = messages[0].offset
    const known = new Set(this.items.map(({ key }) => key))
    this.items.unshift(...messages.map(item).filter((shown) => shown && !known.has(shown.key)))
  }

  wrote(ts) {
    if (this.slow) this.mayWriteAt = Math.max(this.mayWriteAt, ts + this.slow * 1000)
  }

  sanction(event, words) {
    const { kind, room, until } = event
    if (kind === 'mute') this.sanctions = [...this.sanctions.filter((held) => held.room !== room), event]
    else if (kind === 'unmute') this.sanctions = this.sanctions.filter((held) => held.room !== room)
    else if (room !== null && (kind === 'kick' || kind === 'ban')) {
      this.out = { words, kind, until }
      this.joined = false
    }
  }

  /** The mute that holds longest now. */
  mute(now) {
    const holding = this.sanctions.filter(({ until }) => until === null || until > now)
    return holding.sort((a, b) => (b.until ?? Infinity) - (a.until ?? Infinity))[0]
  }
}

function item({ type, message_id, offset, user, name, text, ts, level }) {
  if (type === 'message') return { key: message_id, kind: 'message', offset, user, name, text, ts }
  if (type === 'notice' && message_id) return { key: message_id, kind: 'notice', offset, text, level, ts }
}
