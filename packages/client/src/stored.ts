/** Whether the server stores an event for this command, so that its order among the connection's writes matters. */
export const storesEvent = (type: string): boolean =>
  /^(send|edit|delete|react|create|join|leave|invite|remove|role|rename|settings)$/.test(type);
