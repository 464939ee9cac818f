// Types of client.js: chat client for protocol bridge.v1. Times are ms since the epoch.

export type RoomState = 'open' | 'frozen' | 'closed'
export interface Person { user: string; name: string }
export interface Position { epoch: string; offset: number }

/** What no plugin has published, whatever its type is called. */
interface Own { data?: undefined }

// What travels on a room's channel; `offset` grows by one, and is a place there together with `epoch`.
export interface Message extends Own {
  type: 'message'; room: string; epoch: string; offset: number; message_id: string; user: string; name: string
  text: string | null // null: deleted since
  ts: number
}
export interface Deleted extends Own { type: 'deleted'; room: string; epoch: string; offset: number; message_ids: string[] }
export interface RoomChanged extends Own {
  type: 'room'; room: string; epoch: string; offset: number; state: RoomState; slow_mode_s: number; title: string
}
/** A kept notice has epoch, offset, message_id and ts; a flashed one has `seconds`, and no room if it is for everybody. */
export interface Notice extends Own {
  type: 'notice'; room: string | null; level: 'info' | 'warning'; text: string | null
  epoch?: string; offset?: number; message_id?: string; ts?: number; seconds?: number | null
}
/** What a plugin publishes in a room, under any type: what has `data` is this, what has none is told apart by its type. */
export interface Other { type: string; room: string; epoch: string; offset: number; data: Record<string, unknown>; ts: number }

// What has no offset.
export interface Presence extends Own { type: 'presence'; room: string; count: number; join: Person[]; leave: Person[] }
export interface Sanction extends Own {
  type: 'sanction'; kind: 'mute' | 'unmute' | 'ban' | 'unban' | 'kick' | 'warn'
  room: string | null // null: everywhere
  until: number | null // null: without end
  reason: string | null; command_id: string | null; text?: string
}

export interface Room extends Position {
  room: string
  recovered: boolean
  /** Oldest first. Recovered: all since the place that was named; else the newest part of the history. */
  messages: Pushed[]
  count: number; state: RoomState; slow_mode_s: number; title: string; sanctions: Sanction[]
}
export interface Joined extends Room { type: 'joined' }

// What the client itself tells.
export interface Ready {
  user: Person; session: string; node: string
  limits: { frame_bytes: number; text_chars: number; rooms: number; messages_per_s: number }
}
/** After each authentication; `resumed` of the rooms follows. */
export interface Connected extends Ready, Own { type: 'connected' }
export interface Reconnecting extends Own { type: 'reconnecting'; code: number; reason: string; after_ms: number }
/** Recovered: what was missed follows as events. Else: forget what is on the screen, `messages` is what there is to show. */
export interface Resumed extends Room, Own { type: 'resumed' }
/** The room could not be joined again: banned, room_closed, room_not_found … */
export interface Left extends Own { type: 'left'; room: string; code: string; message: string }
/** So many events without an offset were dropped, because nobody read. */
export interface Lagged extends Own { type: 'lagged'; events: number }

export type Pushed = Message | Deleted | RoomChanged | Notice | Other
export type Event = Pushed | Presence | Sanction | Connected | Reconnecting | Resumed | Left | Lagged

export interface Said { message_id: string; offset: number; ts: number }
export interface History { room: string; messages: (Message | Notice)[]; more: boolean }
export interface Present { room: string; count: number; users: Person[] }

export interface Options {
  /** What program this is, for the server's logs; 64 characters at most. */
  name?: string
  version?: string
  /** Closes the client. */
  signal?: AbortSignal
  /** Of [0, 1), for the jitter of reconnections. */
  random?: () => number
}

/** A call was refused, or got no answer within a minute (`unavailable`; what became of it is not known then). */
export class ChatError extends Error {
  constructor(code: string, message: string, temporary?: boolean, retry_after_ms?: number)
  readonly code: string
  readonly temporary: boolean
  readonly retry_after_ms?: number
}

/** The connection is over for good: 4500-4999 told by the server, 1000 by `close()`. */
export class Closed extends Error {
  constructor(code: number, reason: string)
  readonly code: number
  readonly reason: string
}

export class ChatClient implements AsyncIterableIterator<Event> {
  /**
   * @param urls `wss://…/ws`; tried in this order, the next one after each loss
   * @param token a JWT, or a function that gives a fresh one: asked before each connection, and again before it is out
   */
  constructor(urls: string | string[], token: string | (() => string | Promise<string>), options?: Options)
  readonly state: 'new' | 'connecting' | 'open' | 'reconnecting' | 'closed'
  connect(): Promise<Ready>
  join(room: string, since?: Position): Promise<Joined>
  leave(room: string): Promise<void>
  /** `nonce`, 64 characters at most: to repeat a call whose outcome is unknown, within ten minutes. */
  say(room: string, text: string, nonce?: string): Promise<Said>
  /** `before` is an offset, exclusive; `limit` at most 100. */
  history(room: string, page?: { before?: number; limit?: number }): Promise<History>
  presence(room: string): Promise<Present>
  ping(): Promise<void>
  close(): void
  [Symbol.asyncIterator](): this
  /** Rejects once with Closed where the server ended it for good; `done` after `close()`. */
  next(): Promise<IteratorResult<Event, undefined>>
  return(): Promise<IteratorResult<Event, undefined>>
}
