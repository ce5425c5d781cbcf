// Only types are imported from here.
export {};
