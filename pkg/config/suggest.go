package config

import "strings"

// didYouMean says what could have been written instead: the nearest name, or
// which there are.
func didYouMean(nearest, what string, names []string) string {
	if nearest != "" {
		return "did you mean " + nearest + "?"
	}
	if len(names) == 0 {
		return what + ": none"
	}
	return what + ": " + strings.Join(names, ", ")
}

// Nearest is the name that was probably meant: one that differs in at most two
// letters, not counting their case, or else one that begins with what was
// written or with which that begins. It is empty if there is none.
func Nearest(written string, names []string) string {
	const most = 2
	best, bestDistance := "", most+2
	lower := strings.ToLower(written)
	for _, name := range names {
		candidate := strings.ToLower(name)
		d := distance(lower, candidate)
		if len(lower) > most && (strings.HasPrefix(candidate, lower) || strings.HasPrefix(lower, candidate)) {
			d = min(d, most+1)
		} else if d > most || d >= max(len(lower), len(candidate)) {
			continue
		}
		if d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two strings, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
