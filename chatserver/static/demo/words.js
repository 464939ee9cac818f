// What the page says in plain words. Pure.

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const DAY = new Intl.DateTimeFormat('en', { weekday: 'long', day: 'numeric', month: 'long' })
const SHORT_DAY = new Intl.DateTimeFormat('en', { day: 'numeric', month: 'short' })

export const clock = (ms) => CLOCK.format(ms)

export function day(ms, now = Date.now()) {
  const days = Math.round((new Date(now).setHours(0, 0, 0, 0) - new Date(ms).setHours(0, 0, 0, 0)) / 86400000)
  return days === 0 ? 'Today' : days === 1 ? 'Yesterday' : DAY.format(ms)
}

/** 12:05, or 3 Dec, 12:05 where that is not today. */
function until(ms, now) {
  return new Date(ms).toDateString() === new Date(now).toDateString() ? clock(ms) : `${SHORT_DAY.format(ms)}, ${clock(ms)}`
}

/** "You are muted until 12:05: spam" */
export function sanction({ kind, until: end, reason, room, text }, now = Date.now()) {
  const why = reason || text ? `: ${reason || text}` : ''
  const where = room == null ? ' everywhere' : ''
  const when = end == null ? '' : ` until ${until(end, now)}`
  switch (kind) {
    case 'mute': return `You are muted${where}${when}${why}`
    case 'ban': return `You are banned from this ${room == null ? 'chat' : 'room'}${when}${why}`
    case 'kick': return `You were removed from this ${room == null ? 'chat' : 'room'}${why}`
    case 'warn': return `A moderator warns you${why}`
    case 'unmute': return 'You may write again'
    default: return 'You may come back'
  }
}

export function people(count) {
  return count === 1 ? '1 person here' : `${count} people here`
}

/** Why a message was not sent. */
export function refusal({ code, message, retry_after_ms }) {
  const soon = retry_after_ms ? `; try again in ${seconds(retry_after_ms)}` : ''
  switch (code) {
    case 'muted': return 'you are muted'
    case 'banned': return 'you are banned from this room'
    case 'room_frozen': return 'the room is frozen'
    case 'room_closed': return 'the room is closed'
    case 'not_joined': return 'you are not in this room any more'
    case 'rate_limited': return `you are writing too fast${soon}`
    case 'slow_mode': return `slow mode${soon}`
    case 'unavailable': return 'the chat cannot be reached'
    default: return message || code
  }
}

export function seconds(ms) {
  const left = Math.max(1, Math.ceil(ms / 1000))
  if (left < 120) return `${left} s`
  return left < 7200 ? `${Math.ceil(left / 60)} min` : `${Math.ceil(left / 3600)} h`
}

/** Why the server ended it for good. */
export function ended({ code, reason }) {
  const why = reason && !/^(kicked|banned)$/.test(reason) ? `: ${reason}` : '.'
  switch (code) {
    case 4501: return 'Your sign-in is not valid any more.'
    case 4503: return `You were removed from the chat${why}`
    case 4504: return `You are banned from this chat${why}`
    case 4505: return 'You signed in somewhere else too often; this window was closed.'
    default: return `The chat ended (${code}${reason ? ` ${reason}` : ''}).`
  }
}
