// Acts on many things. A call takes some of them and says where the rest begins; what dies anew meanwhile is no part
// of that rest.
import { call } from './call.js'
import { card, make, smallButton } from './cards.js'
import { refresh } from './live.js'
import { explain, say } from './words.js'

const MOST_LOOKS = 50 // calls of a dry run

// A button that only counts.
export function dryRun(act, form, body) {
  const said = make('p', { className: 'note' })
  said.setAttribute('role', 'status')
  said.hidden = true
  const button = make('button', { type: 'button', textContent: say('Dry run') })
  button.addEventListener('click', async () => {
    if (!form.reportValidity()) return
    button.disabled = true
    const sum = nothing(), sent = body(act, form)
    let problem = null
    for (let cursor = undefined, looks = 0; cursor !== null && looks < MOST_LOOKS && !problem; looks++) {
      const { answer, told } = await call(act, { ...sent, cursor }, { query: '?dry_run=1' })
      if (answer?.ok) add(sum, told)
      else problem = explain('problem', told.code, told.detail)
      cursor = told.next_cursor ?? null
      said.textContent = problem ?? `${say('Nothing was done yet.')} ${counts(sum, say('{n} would be done', { n: sum.done }))}`
      said.hidden = false
    }
    button.disabled = false
  })
  return { button, said }
}

// The first call is done; go on with what is left, for as long as nobody stops it.
export function goOn(act, sent, first, sum = nothing()) {
  let stopped = false
  const stop = smallButton(say('Stop'), (button) => { stopped = button.disabled = true })
  const shown = card('', '', stop)
  const tell = (...parts) => { shown.line.textContent = `${act.label}: ${[...parts, counts(sum, say('{n} done', { n: sum.done }))].join('; ')}` }
  const rest = (tone, cursor, text) => {
    shown.box.classList.add(tone)
    tell(text)
    stop.replaceWith(smallButton(say('Go on'), async (button) => {
      button.disabled = true
      const next = { ...sent, cursor }
      const { answer, told } = await call(act, next)
      button.disabled = false
      if (!answer?.ok) return tell(explain('problem', told.code, told.detail))
      shown.box.remove()
      goOn(act, next, told, sum)
    }))
    refresh()
  }
  const run = async () => {
    for (let told = first; ;) {
      add(sum, told)
      const cursor = told.next_cursor
      if (!cursor) break
      if (stopped) return rest('warn', cursor, say('stopped'))
      tell(say('handling'))
      const next = await call(act, { ...sent, cursor })
      if (!next.answer?.ok) return rest('bad', cursor, explain('problem', next.told.code, next.told.detail))
      told = next.told
    }
    stop.remove()
    shown.box.classList.add(sum.done ? 'ok' : 'warn')
    tell(say('done'))
    refresh()
  }
  run()
}

const nothing = () => ({ done: 0, skipped: {} })

function add(sum, told) {
  sum.done += told.done.length
  for (const { code } of told.skipped) sum.skipped[code] = (sum.skipped[code] ?? 0) + 1
}

function counts(sum, first) {
  const skipped = Object.entries(sum.skipped).map(
    ([code, n]) => say('{n} skipped ({code})', { n, code: say(code.replaceAll('_', ' ')) }))
  return [first, ...skipped].join(', ')
}
