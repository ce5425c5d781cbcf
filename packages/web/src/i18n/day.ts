// Days as the calendar on the wall has them: in the time zone of the device.

const midnight = (date: Date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();

/** How many midnights lie between two times. Rounded, as some days have 23 or 25 hours. */
export function dayDistance(from: Date, to: Date): number {
  return Math.round((midnight(to) - midnight(from)) / 86_400_000);
}

/** The same for all times of one day. */
export function dayOf(at: string): number {
  return midnight(new Date(at));
}
