// When a token has to be followed by a fresh one.

/** When a JWT ends (RFC 7519 section 4.1.4), in Unix seconds; NaN for other tokens, whose end the server tells. */
export const expiresAt = (token: string): number => {
  try {
    return JSON.parse(atob(token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/"))).exp;
  } catch {
    return NaN;
  }
};

/** In how many milliseconds to ask for the next: a minute before the end, or half-way, but not twice in the ten
 * seconds in which the server takes one. NaN when this clock cannot say: then the server does, when it has ended, and
 * waits for 25 s. */
export const renewInMs = (expiresAtSeconds: number): number => {
  const left = expiresAtSeconds * 1000 - Date.now();
  return left > 0 ? Math.max(left - 60_000, left / 2, RENEW_AGAIN_MS) : NaN;
};

export const RENEW_AGAIN_MS = 11_000;
