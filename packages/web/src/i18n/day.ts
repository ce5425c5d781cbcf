// Calendar days in the device's time zone.

const midnight = (date: Date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();

/** The number of midnights between two times. Rounded, because some days have 23 or 25 hours. */
export function dayDistance(from: Date, to: Date): number {
  return Math.round((midnight(to) - midnight(from)) / 86_400_000);
}

/** A number for the day of a time: the same for all times of that day, and different for other days. */
export function dayOf(at: string): number {
  return midnight(new Date(at));
}
