// The elements in Vue's templates: `import "@switchboard/web/vue"`.

import type { DefineComponent } from "vue";
import type { ChatAttributes, ChatEventDetails, ChatProperties, LauncherAttributes } from "./index.js";

type Handlers = {
  [K in keyof ChatEventDetails as `on${Capitalize<K>}`]?: (event: CustomEvent<ChatEventDetails[K]>) => void;
};

declare module "vue" {
  interface GlobalComponents {
    "switchboard-chat": DefineComponent<ChatAttributes & ChatProperties & Handlers>;
    "switchboard-launcher": DefineComponent<LauncherAttributes & ChatProperties & Handlers>;
  }
}
