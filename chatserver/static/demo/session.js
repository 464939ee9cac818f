// Who the user of this tab is, and how the page looks.

const TOKEN = 'demo-chat-token'
const THEME = 'demo-chat-theme'
const THEMES = ['auto', 'light', 'dark']

export class NotSignedIn extends Error {}

/** Sign in as a new user of this name. */
export async function signIn(name) {
  return keep(await ask(`/demo/token?name=${encodeURIComponent(name)}`))
}

/** The token of this tab's user, fresh if the node that served the page can be asked. Raises NotSignedIn. */
export async function token() {
  const kept = sessionStorage.getItem(TOKEN)
  if (!kept) throw new NotSignedIn('nobody signed in')
  try {
    return keep(await ask('/demo/token', { Authorization: `Bearer ${kept}` })).token
  } catch (error) {
    if (error instanceof NotSignedIn) throw error
    return kept // the node is gone or busy; the others take the token that there is
  }
}

export const signedIn = () => sessionStorage.getItem(TOKEN) !== null
export const signOut = () => sessionStorage.removeItem(TOKEN)

async function ask(address, headers = {}) {
  const response = await fetch(address, { method: 'POST', headers })
  const answer = await response.json()
  if (response.status === 401) throw new NotSignedIn(answer.error)
  if (!response.ok) throw new Error(answer.error)
  return answer
}

function keep(answer) {
  sessionStorage.setItem(TOKEN, answer.token)
  return answer
}

/** A button that goes from theme to theme. */
export function themes(button) {
  const show = (theme) => {
    if (theme === 'auto') delete document.documentElement.dataset.theme
    else document.documentElement.dataset.theme = theme
    button.dataset.theme = theme
    button.title = `Theme: ${theme}`
    button.setAttribute('aria-label', `Theme: ${theme}`)
  }
  const kept = localStorage.getItem(THEME)
  show(THEMES.includes(kept) ? kept : 'auto')
  button.addEventListener('click', () => {
    const next = THEMES[(THEMES.indexOf(button.dataset.theme) + 1) % THEMES.length]
    localStorage.setItem(THEME, next)
    show(next)
  })
}
