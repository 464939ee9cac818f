// Series of the last minutes or hours, drawn by uPlot; new samples are added as they come.
/* global uPlot */
const DAY = '{YYYY}-{MM}-{DD}', TIME = '{HH}:{mm}'
const AXIS = [
  [3600, TIME, `\n${DAY}`, null, null, null, null, null, 1],
  [60, TIME, `\n${DAY}`, null, null, null, null, null, 1],
  [1, `${TIME}:{ss}`, `\n${DAY}`, null, null, null, null, null, 1],
]
const MOST = { minutes: 900, hours: 2160 }
let drawn = [], span = 'minutes', columns = null

export async function charts(places) {
  for (const tab of document.querySelectorAll('[data-span]')) {
    tab.addEventListener('click', () => {
      for (const each of document.querySelectorAll('[data-span]')) each.setAttribute('aria-pressed', each === tab)
      span = tab.dataset.span
      load(places)
    })
  }
  document.addEventListener('live:sample', ({ detail }) => add(detail))
  document.addEventListener('live:gap', () => load(places))
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => draw(places))
  new ResizeObserver(() => drawn.forEach(({ plot, place }) => plot.setSize(size(place)))).observe(document.body)
  await load(places)
}

async function load(places) {
  const answer = await fetch(`/api/v1/series?span=${span}`).catch(() => null)
  if (!answer?.ok) return
  columns = await answer.json()
  draw(places)
}

function draw(places) {
  drawn.forEach(({ plot }) => plot.destroy())
  drawn = places.map((place) => {
    const names = place.dataset.chart.split(' ')
    return { place, names, plot: new uPlot(options(place, names), data(names), place) }
  })
}

// Whoever comes from another back office is told again what this one remembers.
function add(sample) {
  const since = sample.at - columns?.at.at(-1)
  if (columns === null || since <= 0 || (span === 'hours' && since < 10)) return
  for (const [name, values] of Object.entries(columns)) {
    values.push(sample[name])
    if (values.length > MOST[span]) values.shift()
  }
  if (!document.hidden) for (const { plot, names } of drawn) plot.setData(data(names))
}

const data = (names) => [columns.at, ...names.map((name) => columns[name].map(
  (value) => value !== null && name.endsWith('_s') ? value * 1000 : value))]
const size = (place) => ({ width: place.clientWidth, height: 150 })

// A canvas does not know CSS; the page's own colours are read off an element.
function colour(place, token) {
  const probe = document.createElement('i')
  probe.style.color = `var(--${token})`
  place.append(probe)
  const found = getComputedStyle(probe).color
  probe.remove()
  return found
}

function options(place, names) {
  const dim = colour(place, 'dim'), line = colour(place, 'line')
  const strokes = [colour(place, 'accent'), colour(place, 'warn')]
  const axis = { stroke: dim, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: '11px system-ui' }
  return {
    ...size(place),
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 6 } },
    scales: { y: { range: (_plot, _low, high) => [0, Math.max(high ?? 0, 1) * 1.1] } },
    axes: [{ ...axis, values: AXIS, space: 70, size: 38 }, { ...axis, size: 46 }],
    series: [{}, ...names.map((name, index) => ({
      label: name, stroke: strokes[index], width: 1.6, dash: index ? [5, 3] : undefined, points: { show: name.endsWith('_s'), size: 3, fill: strokes[index] },
      spanGaps: true,
    }))],
  }
}
