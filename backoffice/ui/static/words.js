// The page's language, as the server says it.
const known = JSON.parse(document.getElementById('words').textContent)

const ONE = /\{n\} ((?:dead )?\w+)s\b/

export function say(text, values = {}) {
  const said = known[text] ?? text
  return fill(values.n === 1 && said === text ? text.replace(ONE, '{n} $1') : said, values)
}

export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole)

const UNITS = [[90, 1, 's'], [5400, 60, 'min'], [172800, 3600, 'h'], [Infinity, 86400, 'd']]

export function ago(date) {
  const seconds = (Date.now() - date) / 1000
  const [, size, unit] = UNITS.find(([most]) => Math.abs(seconds) < most)
  const n = Math.round(Math.abs(seconds) / size)
  return say(seconds >= -0.5 ? `{n} ${unit} ago` : `in {n} ${unit}`, { n })
}

// What the API says in English under a code: in the reader's language first, where there is one.
export function explain(kind, code, message) {
  const said = known[`${kind}:${code}`]
  return said ? `${said} (${message})` : message
}
