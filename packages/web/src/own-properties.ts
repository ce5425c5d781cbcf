const PROPERTIES = ["token", "user", "texts", "renderData"] as const;

/** Sets the properties again that were set before the element's script ran, because those would hide its accessors. */
export function setAgainOwnProperties(element: Record<(typeof PROPERTIES)[number], unknown>): void {
  for (const name of PROPERTIES) {
    if (!Object.hasOwn(element, name)) continue;
    const value = element[name];
    delete (element as Partial<typeof element>)[name];
    element[name] = value;
  }
}
