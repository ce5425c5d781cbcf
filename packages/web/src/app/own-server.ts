// The server's URL: the directory of the page, because a proxy may serve it below a path, such as `/chat/`.

export function ownServer(page: string = location.href): string {
  return new URL(".", page).href.replace(/\/$/, "");
}
