namespace donabe {}
