// Where one writes: what stands in the way is said in words, and what was typed is never lost.

import { sanction, seconds } from '/demo/words.js'

const SHOW_LEFT = 100 // characters

export class Composer {
  constructor(parts, { say, comeBack }) {
    Object.assign(this, parts, { say, comeBack })
    this.limit = 500
    this.form.addEventListener('submit', (event) => {
      event.preventDefault()
      this.submit()
    })
    this.text.addEventListener('keydown', (event) => {
      // While a syllable is being composed (Korean, Japanese, …), Enter belongs to the input method.
      const composing = event.isComposing || event.keyCode === 229 // Safari tells by the latter
      if (event.key === 'Enter' && !event.shiftKey && !composing) {
        event.preventDefault()
        this.submit()
      }
    })
    this.text.addEventListener('input', () => this.update(this.room))
    this.button.addEventListener('click', () => this.comeBack(this.room))
  }

  submit() {
    const text = this.text.value.trim()
    if (!text || this.send.disabled) return
    this.text.value = ''
    this.say(this.room, text)
    this.update(this.room)
  }

  /** Another room: its draft comes, the other's is kept. */
  turnTo(room) {
    if (this.room) this.room.draft = this.text.value
    this.text.value = room.draft ?? ''
    this.update(room)
  }

  update(room) {
    clearTimeout(this.timer)
    this.room = room
    const now = Date.now()
    const { words, button = '' } = obstacle(room, now) ?? {}
    const wait = Math.max(0, room.mayWriteAt - now)
    this.banner.hidden = !words
    if (words && this.words.textContent !== words) this.words.textContent = words
    this.button.hidden = !button
    this.button.textContent = button
    this.text.disabled = Boolean(words)
    this.form.hidden = Boolean(words) && !this.text.value // a draft stays in sight
    this.text.placeholder = words ? '' : `Message ${room.title}`
    this.text.setAttribute('aria-label', `Message ${room.title}`)
    this.send.disabled = Boolean(words) || wait > 0 || !this.text.value.trim() || this.over() > 0
    this.hint(room, words, wait)
    // As tall as its text, up to what the style allows.
    this.text.style.height = 'auto'
    this.text.style.height = `${this.text.scrollHeight + 2}px`
    const mute = room.mute(now)
    const next = wait ? wait % 1000 || 1000 : mute?.until ? mute.until - now + 50 : 0
    if (next) this.timer = setTimeout(() => this.update(this.room), Math.min(next, 60000))
  }

  over() {
    return [...this.text.value.trim()].length - this.limit // as the server counts: code points
  }

  hint(room, words, wait) {
    const left = -this.over()
    const hint = words ? '' : wait ? `Slow mode: you can write again in ${seconds(wait)}`
      : left < 0 ? `${-left} characters too many` : left < SHOW_LEFT ? `${left} characters left`
      : room.slow ? `Slow mode: one message every ${seconds(room.slow * 1000)}` : ''
    this.left.hidden = !hint
    this.left.classList.toggle('bad', left < 0)
    if (this.left.textContent !== hint) this.left.textContent = hint
  }
}

function obstacle(room, now) {
  if (room.out) {
    const { words, kind, until } = room.out
    return { words, button: kind === 'ban' && !(until && until <= now) ? '' : kind === 'closed' ? 'Try again' : 'Join again' }
  }
  if (!room.joined) return { words: 'Joining …' }
  const mute = room.mute(now)
  if (mute) return { words: sanction(mute, now) }
  if (room.state === 'frozen') return { words: 'This room is frozen: nobody can write for now.' }
  if (room.state === 'closed') return { words: 'This room is closed.' }
}
