// Chat client for protocol bridge.v1: browsers, Node >= 22. One file, no dependencies. Types: client.d.ts.

const QUEUE = 1000 // events that wait for the iterator; more of a room are fetched again later
const CALLS = 100 // calls that wait for an answer
const ANSWER_MS = 60000 // for one answer, reconnections included; nonces are known for 10 min
const OPEN_MS = 10000 // from asking for a token to `ready`
const STEADY_MS = 10000 // a connection that lived so long counts as a success
const FRAME_BYTES = 16384

/** A call was refused, or has no answer: `temporary` says whether trying again may help, and when. */
export class ChatError extends Error {
  constructor(code, message, temporary = false, retry_after_ms) {
    super(message)
    Object.assign(this, { name: 'ChatError', code, temporary, retry_after_ms })
  }
}

/** It is over: 4500-4999 told by the server, 1000 by close(). */
export class Closed extends Error {
  constructor(code, reason) {
    super(`${code} ${reason}`)
    Object.assign(this, { name: 'Closed', code, reason })
  }
}

/** One user's connection. Events come by `for await (const event of client)`. */
export class ChatClient {
  #urls; #token; #client; #random
  #rooms = new Map() // id -> {epoch, offset; turn: joined on; deaf: a join is due that will tell all; behind: once the queue is read}
  #calls = new Map() // id -> {text, inner, type, room, turn: sent on, resolve, reject, timer}; all but inner ones outlive a connection
  #queue = []
  #dropped = 0 // events that found no space
  #readers = [] // next() that wait for an event
  #ids = 0
  #failures = 0
  #turn = 0 // of connections; what belongs to an earlier one is ignored
  #socket; #opening; #first; #deadline; #renewal; #again // promise, its functions, timers
  #live = 0 // when `ready` came, on this connection
  #silence = 0
  #skew = 0 // the server's clock minus ours
  #after; #user; #over
  #ending = new AbortController()

  /** `urls` are tried in this order, the next one after each loss; a `token` function is asked again before each is out. */
  constructor(urls, token, { name = 'client.js', version = '1', signal, random = Math.random } = {}) {
    this.#urls = [urls].flat()
    this.#token = token
    this.#client = { name, version }
    this.#random = random
    if (signal?.aborted) this.close()
    signal?.addEventListener('abort', () => this.close(), { signal: this.#ending.signal })
  }

  /** 'new', 'connecting', 'open', 'reconnecting' or 'closed'. */
  get state() {
    return this.#over ? 'closed' : this.#live ? 'open' : this.#user ? 'reconnecting' : this.#opening ? 'connecting' : 'new'
  }

  /** Resolves with `ready` once connected; tries until then. Rejects with Closed. */
  connect() {
    if (!this.#opening) {
      this.#opening = new Promise((resolve, reject) => (this.#first = { resolve, reject }))
      this.#opening.catch(() => {}) // the iterator tells, too
      if (this.#over) this.#first.reject(this.#over)
      else this.#open()
    }
    return this.#opening
  }

  /** The room as it is; from then on its events. After a lost connection it is joined again where it was. */
  join(room, since) {
    return this.#ask({ type: 'join', room, since })
  }

  async leave(room) {
    this.#rooms.delete(room)
    for (const call of this.#calls.values()) {
      if (call.type !== 'join' || call.room !== room) continue
      if (this.#live) call.inner = true // answered, and not repeated on another connection
      else call.reject(new ChatError('not_joined', 'left meanwhile'))
    }
    if (this.#live) await this.#ask({ type: 'leave', room })
  }

  /** Said exactly once, however often the connection is lost meanwhile. */
  say(room, text, nonce = newNonce()) {
    return this.#ask({ type: 'say', room, text, nonce })
  }

  history(room, { before, limit } = {}) {
    return this.#ask({ type: 'history', room, before, limit })
  }

  presence(room) {
    return this.#ask({ type: 'presence', room })
  }

  async ping() {
    await this.#ask({ type: 'ping' })
  }

  close() {
    this.#end(new Closed(1000, 'closed by this client'))
  }

  [Symbol.asyncIterator]() {
    return this
  }

  next() {
    return new Promise((resolve, reject) => {
      if (!this.#queue.length) return this.#over ? this.#tellEnd({ resolve, reject }) : this.#readers.push({ resolve, reject })
      resolve({ value: this.#queue.shift(), done: false })
      if (!this.#queue.length) this.#catchUp()
    })
  }

  /** Leaving a loop does not close the client. */
  async return() {
    return { value: undefined, done: true }
  }

  // One connection

  async #open() {
    const turn = ++this.#turn
    this.#expect(OPEN_MS)
    let token = this.#token
    try {
      if (typeof token === 'function') token = await token()
    } catch (error) {
      return turn === this.#turn && this.#lost(1006, `${error}`)
    }
    if (turn !== this.#turn) return
    try {
      this.#socket = new WebSocket(this.#urls[0], 'bridge.v1')
    } catch (error) {
      return this.#end(error) // of the URL: it will not get better
    }
    const socket = this.#socket
    let opened = false
    socket.onopen = () => {
      opened = true
      this.#send({ type: 'auth', id: 0, token, client: this.#client })
    }
    socket.onmessage = ({ data }) => this.#hear(JSON.parse(data), token)
    socket.onclose = ({ code, reason }) => this.#lost(code, reason)
    socket.onerror = () => opened || this.#lost(1006, 'not reached') // not every runtime closes after it
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame))
  }

  #expect(ms) {
    clearTimeout(this.#deadline)
    this.#deadline = setTimeout(() => this.#lost(1006, 'silence'), ms)
  }

  #hear(frame, token) {
    if (this.#live) this.#expect(this.#silence)
    const { id, type } = frame
    if (id != null) return id ? this.#answer(id, frame) : this.#enter(frame, token)
    if (frame.offset != null) this.#follow(frame) // whatever a plugin calls it
    else if (type === 'hello') {
      this.#silence = 2 * frame.heartbeat_ms
      this.#skew = frame.server_time - Date.now()
    } else if (type === 'ping') this.#send({ type: 'pong' })
    else if (type === 'reconnect') this.#after = frame.after_ms
    else {
      if (type === 'sanction' && /^(kick|ban)$/.test(frame.kind)) this.#rooms.delete(frame.room)
      this.#offer(frame)
    }
  }

  #enter(ready, token) {
    if (ready.type === 'error') return this.#lost(1013, ready.message, ready.retry_after_ms)
    this.#live = Date.now()
    this.#user = ready.user.user
    this.#expect(this.#silence)
    this.#renew(token)
    delete ready.id
    this.#first.resolve(ready)
    this.#offer({ ...ready, type: 'connected' })
    for (const room of this.#rooms.keys()) this.#rejoin(room)
    this.#flush()
  }

  #renew(token) {
    if (typeof this.#token !== 'function') return
    const turn = this.#turn
    const left = expiry(token) - Date.now() - this.#skew
    if (isNaN(left)) return
    this.#renewal = setTimeout(async () => {
      let now = token
      try {
        const fresh = await this.#token()
        if (turn === this.#turn) await this.#ask({ type: 'auth', token: fresh }, true)
        now = fresh
      } catch {} // tried again before it is too late
      if (turn === this.#turn) this.#renew(now)
    }, Math.min(Math.max(left * 0.8, 1000), 2 ** 31 - 1))
  }

  #lost(code, reason, least = 0) {
    const steady = this.#live && Date.now() - this.#live > STEADY_MS
    this.#hangUp()
    if (code >= 4500 && code < 5000) return this.#end(new Closed(code, reason))
    for (const call of this.#calls.values()) {
      if (call.type === 'leave') call.resolve()
      else if (call.inner) call.giveUp('connection lost')
    }
    this.#failures = steady ? 0 : this.#failures + 1
    // Full jitter, unless the server gave each client a time of its own; what it tells all alike comes before.
    const after_ms = this.#after ?? least + this.#random() * Math.min(20000, 500 * 2 ** this.#failures)
    this.#after = undefined
    this.#urls.push(this.#urls.shift())
    this.#offer({ type: 'reconnecting', code, reason, after_ms })
    this.#again = setTimeout(() => this.#open(), after_ms)
  }

  #hangUp() {
    this.#turn++
    this.#live = 0
    for (const timer of [this.#deadline, this.#renewal, this.#again]) clearTimeout(timer)
    const socket = this.#socket
    if (socket) socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null
    socket?.close(1000)
  }

  #end(error) {
    if (this.#over) return
    this.#over = error
    this.#ending.abort()
    this.#hangUp()
    this.#first?.reject(error)
    for (const call of this.#calls.values()) call.reject(error)
    for (const reader of this.#readers.splice(0)) this.#tellEnd(reader)
  }

  // Calls

  #ask(frame, inner) {
    return new Promise((resolve, reject) => {
      const id = (frame.id = ++this.#ids)
      const text = JSON.stringify(frame)
      if (this.#over) return reject(this.#over)
      if (new TextEncoder().encode(text).length > FRAME_BYTES) return reject(new ChatError('too_large', `over ${FRAME_BYTES} bytes`))
      if (!inner && this.#calls.size >= CALLS) return reject(new ChatError('rate_limited', `${CALLS} calls wait already`, true))
      const ended = (tell) => (value) => {
        clearTimeout(timer)
        this.#calls.delete(id)
        tell(value)
      }
      const call = { ...frame, text, inner, until: Date.now() + ANSWER_MS, resolve: ended(resolve), reject: ended(reject) }
      call.giveUp = (why) => call.reject(new ChatError('unavailable', why, true))
      const timer = setTimeout(call.giveUp, ANSWER_MS, 'no answer')
      this.#calls.set(id, call)
      this.#flush()
    })
  }

  /** Sends what this connection has not been sent; what needs a room waits until that is joined again. */
  #flush() {
    if (!this.#live) return
    for (const call of this.#calls.values()) {
      const room = call.type !== 'join' && this.#rooms.get(call.room)
      if (call.turn === this.#turn || (room && room.turn !== this.#turn)) continue
      // Timers stand still while a machine sleeps, and nodes forget nonces.
      if (Date.now() > call.until) call.giveUp('no answer')
      else this.#socket.send(call.text)
      call.repeated = call.turn !== undefined
      call.turn = this.#turn
    }
  }

  #answer(id, frame) {
    const call = this.#calls.get(id)
    if (!call) return
    if (call.type === 'say' && call.repeated) {
      // A node looks at these before it looks whether the same was said before.
      if (frame.code === 'not_joined') return call.giveUp('not in the room any more; it may have been said')
      if (frame.code === 'rate_limited') return this.#sendLater(call, frame.retry_after_ms)
    }
    this.#calls.delete(id)
    delete frame.id
    if (frame.type === 'joined') this.#level(frame, call)
    if (frame.type !== 'error' || call.type === 'leave') call.resolve(frame) // nobody who left is in
    else call.reject(new ChatError(frame.code, frame.message, frame.temporary, frame.retry_after_ms))
  }

  #sendLater(call, ms) {
    const { turn } = call
    setTimeout(() => {
      if (call.turn === turn) call.turn = 0
      this.#flush()
    }, ms)
  }

  // Rooms: their offsets grow by one

  #level(joined, call) {
    const { room: id, epoch, offset, recovered, messages } = joined
    const before = this.#rooms.get(id)
    if (call.inner && !before) {
      // Left meanwhile. A leave or join that waits is behind this one, and settles it.
      const settled = [...this.#calls.values()].some((each) => each.room === id && /^(leave|join)$/.test(each.type))
      return void (settled || this.#ask({ type: 'leave', room: id }, true).catch(() => {}))
    }
    if (!call.inner) return this.#rooms.set(id, { epoch, offset, turn: this.#turn })
    const room = { ...before, turn: this.#turn, deaf: false }
    this.#rooms.set(id, room)
    let level = this.#put({ ...joined, type: 'resumed', messages: recovered ? [] : messages })
    // All that was missed: the last place is where the answer says, even if a push between has none.
    if (recovered) for (const push of messages) level &&= this.#take(room, push)
    Object.assign(room, level ? { epoch, offset } : { deaf: true, behind: true })
  }

  #follow(push) {
    const room = this.#rooms.get(push.room)
    if (!room || room.deaf) return
    // A message that its id does not place on the room's channel is shown as it comes.
    if (push.type === 'message' && push.message_id && parseInt(push.message_id) !== push.offset) this.#offer(push)
    else if (push.offset > room.offset + 1) this.#rejoin(push.room)
    else if (!this.#take(room, push)) room.deaf = room.behind = true
  }

  /** Whether there is space for what comes next in line. */
  #take(room, push) {
    if (push.offset <= room.offset) return true
    if (!this.#put(push, QUEUE)) return false
    Object.assign(room, { epoch: push.epoch ?? room.epoch, offset: push.offset })
    return true
  }

  async #rejoin(id) {
    const turn = this.#turn
    const room = this.#rooms.get(id)
    const { epoch, offset } = room
    room.deaf = true
    room.behind = false
    while (turn === this.#turn && this.#rooms.get(id) === room) {
      try {
        await this.#ask({ type: 'join', room: id, since: { epoch, offset } }, true)
      } catch (error) {
        if (turn !== this.#turn) return
        if (error.temporary) await new Promise((wake) => setTimeout(wake, error.retry_after_ms ?? 1000 * this.#random()))
        else if (this.#rooms.delete(id)) this.#offer({ type: 'left', room: id, code: error.code, message: error.message })
      }
    }
    this.#flush()
  }

  /** All that waited is read. */
  #catchUp() {
    if (this.#dropped) this.#put({ type: 'lagged', events: this.#dropped })
    this.#dropped = 0
    if (this.#live) for (const [id, room] of this.#rooms) if (room.behind) this.#rejoin(id)
  }

  // Events

  /** Whether there is space for it. */
  #put(event, space = 2 * QUEUE) {
    if (this.#queue.length >= space) return false
    const reader = this.#readers.shift()
    if (reader) reader.resolve({ value: event, done: false })
    else this.#queue.push(event)
    return true
  }

  /** For what is not fetched again. Counts of people are passed over first. */
  #offer(event) {
    if (!this.#put(event, event.type === 'presence' ? QUEUE : 2 * QUEUE)) this.#dropped++
  }

  #tellEnd({ resolve, reject }) {
    const error = this.#over
    if (error.code === 1000 || error.told) return resolve({ value: undefined, done: true })
    error.told = true
    reject(error)
  }
}

function newNonce() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** ms since the epoch; NaN if the token does not say. */
function expiry(token) {
  try {
    return JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'))).exp * 1000
  } catch {
    return NaN
  }
}
