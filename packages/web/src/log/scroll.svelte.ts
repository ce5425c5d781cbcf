// Keeps the scroll position when rows change: at the bottom the view stays at the bottom, elsewhere the row at the top of
// the view stays in place. (Not every browser has scroll anchoring, and none handles rows that are removed on one side and
// added on the other.)

/** Distance from the bottom that still counts as the bottom. */
const BOTTOM_TOLERANCE_PX = 32;

export class Scroll {
  /** Whether the end of the drawn rows is in view. */
  #bottom = $state.raw(true);
  #element: HTMLElement | undefined;
  /** The last scroll position, set by this class or read in `onScroll`. */
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

  /** Handles a scroll event, of the user or of the page. */
  onScroll(): void {
    const element = this.#element;
    if (!element) return;
    // The content grew and the resize event is still to come: the user has not scrolled up.
    if (this.#bottom && element.scrollTop >= this.#set - 1) return this.restore();
    this.#bottom = element.scrollHeight - element.clientHeight - element.scrollTop <= BOTTOM_TOLERANCE_PX;
    this.#set = element.scrollTop;
    this.saveAnchor();
  }

  /** Restores the scroll position after rows or their sizes have changed. */
  restore(): void {
    const element = this.#element;
    if (!element) return;
    if (this.#bottom) this.#down(element);
    else if (this.#anchor?.row.isConnected) element.scrollTop += topIn(element, this.#anchor.row) - this.#anchor.top;
    this.saveAnchor();
  }

  // The methods below scroll without animation, because rows that are drawn during an animation would stop it.

  scrollToBottom(): void {
    const element = this.#element;
    if (!element) return;
    this.#bottom = true;
    this.#down(element);
  }

  #down(element: HTMLElement): void {
    element.scrollTop = element.scrollHeight;
    this.#set = element.scrollTop;
  }

  /** Scrolls so that a row is below the view's top by a part of the view's height: 0.5 is the middle. */
  scrollRowTo(row: HTMLElement, part: number): void {
    const element = this.#element;
    if (!element) return;
    this.#bottom = false;
    element.scrollTop = row.offsetTop - element.clientHeight * part;
    this.onScroll();
  }

  /** The distances in pixels from the edges of the view to the beginning and to the end of the drawn rows. */
  distances(): { above: number; below: number } {
    const element = this.#element;
    if (!element) return { above: Infinity, below: Infinity };
    const { scrollTop, scrollHeight, clientHeight } = element;
    return { above: scrollTop, below: scrollHeight - clientHeight - scrollTop };
  }

  /** The seq of the last message that is in view as a whole. */
  lastSeqInView(): number | undefined {
    const element = this.#element;
    const rows = element?.firstElementChild!.querySelectorAll<HTMLElement>(":scope > [data-seq]");
    if (!element || !rows?.length) return undefined;
    const end = element.scrollTop + element.clientHeight;
    let [low, high] = [0, rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const row = rows[middle]!;
      if (row.offsetTop + row.offsetHeight <= end) low = middle + 1;
      else high = middle;
    }
    const seq = rows[low - 1]?.dataset["seq"];
    return seq === undefined ? undefined : Number(seq);
  }

  /** Remembers the first row in view as the anchor. Call it before rows change. */
  saveAnchor(): void {
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

/** The row's position with fractions of a pixel, which `offsetTop` lacks. */
const topIn = (element: HTMLElement, row: HTMLElement) =>
  row.getBoundingClientRect().top - element.getBoundingClientRect().top;
