// Drives a ChatClient for a test: calls come as objects, answers and events are told.

export function drive({ ChatClient }, tellAll) {
  const told = []
  const tell = (each) => told.push(each) === 1 && setTimeout(() => tellAll(told.splice(0)))
  let client
  let asked = 0
  let reading = Promise.resolve()
  let readOn = () => {}
  const aborting = new AbortController()

  async function read() {
    try {
      for await (const event of client) {
        tell({ event })
        await reading
      }
      tell({ end: null })
    } catch (error) {
      tell({ end: plain(error) })
    }
  }

  const calls = {
    create(urls, tokens, options) {
      const next = async () => {
        const token = tokens[Math.min(asked++, tokens.length - 1)]
        return json ? JSON.parse(token) : token
      }
      const { random, json } = options // json: what comes is parsed, as an answer would be
      if (typeof random === 'number') options.random = () => random
      client = new ChatClient(urls, typeof tokens === 'string' ? tokens : next, { ...options, signal: aborting.signal })
      read()
    },
    state: () => client.state,
    stateOnceConnected: () => client.connect().then(() => client.state),
    asked: () => asked,
    abort: () => aborting.abort(),
    abortListeners: async () => (await import('node:events')).getEventListeners(aborting.signal, 'abort').length,
    oversleep: (ms) => void ((now) => (Date.now = () => now() + ms))(Date.now), // what a machine's sleep is to a page
    joinAndLeave: async (room) => (await Promise.all([client.join(room), client.leave(room)]))[0],
    hold: () => void (reading = new Promise((resolve) => (readOn = resolve))),
    read: () => readOn(),
  }

  return async ({ id, method, args }) => {
    try {
      tell({ id, answer: (await (calls[method] ?? client[method].bind(client))(...args)) ?? null })
    } catch (error) {
      tell({ id, error: plain(error) })
    }
  }
}

function plain({ name, message, code, reason, temporary, retry_after_ms }) {
  return { name, message, code, reason, temporary, retry_after_ms }
}
