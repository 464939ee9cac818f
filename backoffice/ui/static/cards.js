// What came of it: cards in a corner, the last few of them, until somebody closes them.
import { say } from './words.js'

const MOST = 4

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties)
  element.append(...children)
  return element
}

export function smallButton(text, act) {
  const button = make('button', { type: 'button', className: 'small', textContent: text })
  button.addEventListener('click', () => act(button))
  return button
}

export function card(tone, text, ...buttons) {
  const line = make('p', { textContent: text })
  const box = make('div', { className: `outcome ${tone}` }, line)
  box.append(make('div', { className: 'buttons' }, ...buttons, smallButton(say('Close'), () => box.remove())))
  const all = document.getElementById('outcomes')
  all.append(box)
  while (all.children.length > MOST) all.firstChild.remove()
  return { box, line }
}
