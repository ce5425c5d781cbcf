/** Whether the server stores this command, so that its order among the others of a connection matters. */
export const isStored = (type: string): boolean =>
  /^(send|edit|delete|react|create|join|leave|invite|remove|role|rename)$/.test(type);
