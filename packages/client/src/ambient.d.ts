// The one thing of Node's that the SDK uses: its types would replace those of the browser.
declare module "node:module" {
  export function createRequire(url: string): (id: string) => { WebSocket: typeof WebSocket };
}
