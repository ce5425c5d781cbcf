/** The stylesheets are plain CSS, so no preprocessor is needed, and TypeScript in components is of the kind that is erased. */
export default {
  compilerOptions: { runes: true },
};
