// What every page does in the browser: one event stream, times that move on, acts, keys.
import { label, listen } from './live.js'
import { charts } from './charts.js'
import { acts } from './act.js'
import { keys } from './keys.js'
import { ago } from './words.js'

label()
listen()
acts()
keys()
// On a narrow screen the navigation is a strip that may have to be moved to show where one is.
document.querySelector('nav.side [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' })
const places = document.querySelectorAll('[data-chart]')
if (places.length) charts([...places])

setInterval(() => {
  for (const time of document.querySelectorAll('time[datetime]')) {
    const text = ago(new Date(time.dateTime))
    if (time.textContent !== text) time.textContent = text
  }
}, 5000)
for (const select of document.querySelectorAll('.preferences select, select[data-go-on]')) {
  select.addEventListener('change', () => select.form.requestSubmit())
}
for (const shown of document.querySelectorAll('[data-preview]')) {
  const text = document.getElementById(shown.dataset.preview)
  text.addEventListener('input', () => { shown.textContent = text.value })
}
document.addEventListener('click', (event) => {
  for (const menu of document.querySelectorAll('details.me[open]')) {
    if (!menu.contains(event.target)) menu.open = false
  }
})
