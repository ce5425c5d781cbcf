/** No preprocessor is needed: stylesheets are plain CSS, and TypeScript in components is only erased. */
export default {
  compilerOptions: { runes: true, discloseVersion: false },
};
