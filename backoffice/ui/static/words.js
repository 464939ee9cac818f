// The page's language, as the server says it.
const known = JSON.parse(document.getElementById('words').textContent)

export function say(text, values = {}) {
  return (known[text] ?? text).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole)
}

const UNITS = [[90, 1, 's'], [5400, 60, 'min'], [172800, 3600, 'h'], [Infinity, 86400, 'd']]

export function ago(date) {
  const seconds = (Date.now() - date) / 1000
  const [, size, unit] = UNITS.find(([most]) => Math.abs(seconds) < most)
  const n = Math.round(Math.abs(seconds) / size)
  return say(seconds >= -0.5 ? `{n} ${unit} ago` : `in {n} ${unit}`, { n })
}
