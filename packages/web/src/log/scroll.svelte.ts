// The scroll position, kept exactly: at the bottom it stays at the bottom, elsewhere the row at the top of the view stays
// where it is, whatever is put in front of it or taken away. (Not every browser anchors by itself, and none does so when
// rows go on one side and come on the other.)

/** Pixels from the bottom that still count as there. */
const NEAR = 32;

export class Scroll {
  /** Whether the end of what is drawn is in view. */
  #bottom = $state.raw(true);
  #element: HTMLElement | undefined;
  /** The position that was set last, at the bottom. */
  #set = 0;
  #anchor: { row: HTMLElement; top: number } | undefined;

  get atBottom(): boolean {
    return this.#bottom;
  }

  /** For `{@attach}`: the element that scrolls, whose first child holds the rows. */
  readonly attach = (element: HTMLElement): (() => void) => {
    this.#element = element;
    const sizes = new ResizeObserver(() => this.restore());
    sizes.observe(element);
    sizes.observe(element.firstElementChild!);
    return () => sizes.disconnect();
  };

  /** The person has scrolled, or the page has. */
  look(): void {
    const element = this.#element;
    if (!element) return;
    // A larger content, of which the browser has not told yet, is nobody's way up.
    if (this.#bottom && element.scrollTop >= this.#set - 1) return this.restore();
    this.#bottom = element.scrollHeight - element.clientHeight - element.scrollTop <= NEAR;
    this.#set = element.scrollTop;
    this.remember();
  }

  /** After rows have changed, or their sizes: everything is where it was. */
  restore(): void {
    const element = this.#element;
    if (!element) return;
    if (this.#bottom) this.#down(element);
    else if (this.#anchor?.row.isConnected) element.scrollTop += topIn(element, this.#anchor.row) - this.#anchor.top;
    this.remember();
  }

  // At once, never smoothly: what is drawn on the way would end the motion somewhere in between.

  toBottom(): void {
    const element = this.#element;
    if (!element) return;
    this.#bottom = true;
    this.#down(element);
  }

  #down(element: HTMLElement): void {
    element.scrollTop = element.scrollHeight;
    this.#set = element.scrollTop;
  }

  /** Brings a row to a place in the view, as a part of its height from the top. */
  to(row: HTMLElement, part: number): void {
    const element = this.#element;
    if (!element) return;
    this.#bottom = false;
    element.scrollTop = row.offsetTop - element.clientHeight * part;
    this.look();
  }

  /** How far it is to what is not drawn yet, above and below. */
  room(): { above: number; below: number } {
    const element = this.#element;
    if (!element) return { above: Infinity, below: Infinity };
    const { scrollTop, scrollHeight, clientHeight } = element;
    return { above: scrollTop, below: scrollHeight - clientHeight - scrollTop };
  }

  /** Takes the first row in view as what is to stay where it is; to be called before rows change. */
  remember(): void {
    const element = this.#element;
    if (!element || this.#bottom) {
      this.#anchor = undefined;
      return;
    }
    const rows = element.firstElementChild!.querySelectorAll<HTMLElement>(":scope > [data-row]");
    let [low, high] = [0, rows.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      const row = rows[middle]!;
      if (row.offsetTop + row.offsetHeight > element.scrollTop) high = middle;
      else low = middle + 1;
    }
    const row = rows[low];
    this.#anchor = row && { row, top: topIn(element, row) };
  }
}

/** To the fraction of a pixel, which `offsetTop` does not tell. */
const topIn = (element: HTMLElement, row: HTMLElement) =>
  row.getBoundingClientRect().top - element.getBoundingClientRect().top;
