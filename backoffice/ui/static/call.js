// One call of the API. Whatever happens there is something to say: `told` is the answer, a problem document or ours.
import { ended } from './session.js'
import { say } from './words.js'

const WAIT_S = 5

export async function call(act, sent, { idempotencyKey = key(), query = '' } = {}) {
  const headers = { 'Content-Type': 'application/json' }
  if (act.command) headers['Idempotency-Key'] = idempotencyKey
  const path = act.command ? `${act.path}?wait=${WAIT_S}` : act.path + query
  const options = { method: act.method, headers }
  if (sent !== null && (act.command || Object.keys(sent).length)) options.body = JSON.stringify(sent)
  else delete headers['Content-Type']
  const answer = await fetch(path, options).catch(() => null)
  if (answer?.status === 401) ended()
  const told = await answer?.json().catch(() => null)
  return { answer, told: told ?? { detail: say('The server did not answer; nothing that you wrote is lost') } }
}

export const key = () => [...crypto.getRandomValues(new Uint8Array(12))].map((n) => n.toString(16).padStart(2, '0')).join('')
