// The elements in JSX, for React 19: `import "@switchboard/web/react"`.

import type { ClassAttributes, HTMLAttributes } from "react";
import type {
  ChatAttributes,
  ChatElement,
  ChatEventDetails,
  ChatProperties,
  LauncherAttributes,
  LauncherElement,
} from "./index.js";

type Handlers = { [K in keyof ChatEventDetails as `on${K}`]?: (event: CustomEvent<ChatEventDetails[K]>) => void };
type Props<E, A> = Omit<HTMLAttributes<E>, keyof A> & ClassAttributes<E> & A & ChatProperties & Handlers;

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "switchboard-chat": Props<ChatElement, ChatAttributes>;
      "switchboard-launcher": Props<LauncherElement, LauncherAttributes>;
    }
  }
}
