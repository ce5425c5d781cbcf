// The only function of Node that the SDK uses. It is declared here because Node's types would replace those of the browser.
declare module "node:module" {
  export function createRequire(url: string): (id: string) => { WebSocket: typeof WebSocket };
}
