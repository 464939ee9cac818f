// Keys: / search, g and a letter for a page, j k x and Enter for rows, ? for the list. They can be turned off: who
// speaks to a browser, or types with a tremor, presses single keys without meaning to.
const WAIT_MS = 1500
let going = -Infinity
let chosen // the name of the row that j and k have come to

export function keys() {
  if (document.body.dataset.keys === 'off') return
  document.addEventListener('keydown', (event) => {
    const { target } = event
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return
    if (target.closest('input, select, textarea, dialog')) {
      if (event.key === 'Escape' && target.id === 'search') target.blur()
      return
    }
    if (event.timeStamp - going < WAIT_MS) {
      going = -Infinity
      const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`)
      if (link) { event.preventDefault(); location.assign(link.href) }
      return
    }
    const act = ACTS[event.key]
    if (act && act(event) !== false) event.preventDefault()
  })
}

const ACTS = {
  '/': () => document.getElementById('search').focus(),
  'g': (event) => { going = event.timeStamp },
  '?': () => document.getElementById('keys').showModal(),
  'j': () => move(1),
  'k': () => move(-1),
  'x': () => here()?.querySelector('input[type=checkbox]')?.click() ?? false,
  'Enter': (event) => {
    if (event.target.closest('a, button, summary')) return false
    const link = here()?.querySelector('[data-open]')
    if (!link) return false
    link.click()
  },
}

const here = () => document.querySelector('[data-row].here')
const name = (row) => row.id || row.querySelector('[data-open]')?.href

// Parts that were fetched again know nothing of it.
export function keepRow() {
  if (!chosen || here()) return
  for (const row of document.querySelectorAll('[data-row]')) {
    if (name(row) === chosen) return row.classList.add('here')
  }
}

function move(by) {
  const rows = [...document.querySelectorAll('[data-row]')]
  if (!rows.length) return false
  const next = rows[Math.min(rows.length - 1, Math.max(0, rows.indexOf(here()) + by))]
  here()?.classList.remove('here')
  next.classList.add('here')
  chosen = name(next)
  next.scrollIntoView({ block: 'nearest' })
}
