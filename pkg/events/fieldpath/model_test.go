package fieldpath

import (
	"maps"
	"slices"
)

// What Editor does to a text, done to the decoded object: slower, and simpler to
// see that it is right.

// Remove is the object without what the paths name. Elements of a list are
// counted as in the object that is given, whatever else is removed. The object
// is not changed; what is the same in both is shared.
func Remove(object map[string]any, paths []Path) map[string]any {
	return edit(object, paths, func(any) (any, bool) { return nil, false })
}

// Replace is the object with the value for everything that the paths name and
// that is there. The object is not changed; what is the same in both is shared.
func Replace(object map[string]any, paths []Path, value any) map[string]any {
	return edit(object, paths, func(any) (any, bool) { return value, true })
}

// edit gives each thing that a path names to change, which says what takes its
// place, and whether anything does.
func edit(object map[string]any, paths []Path, change func(any) (any, bool)) map[string]any {
	var steps [][]step
	for _, p := range paths {
		if len(p.steps) > 0 {
			steps = append(steps, p.steps)
		}
	}
	changed, _ := within(object, steps, change)
	return changed.(map[string]any) //nolint:forcetypeassert // a mapping stays one
}

// within edits what is in a value. All paths go together, so that an index
// means the same for each.
func within(value any, paths [][]step, change func(any) (any, bool)) (result any, changed bool) {
	if len(paths) == 0 {
		return value, false
	}
	switch v := value.(type) {
	case map[string]any:
		return inMapping(v, paths, change)
	case []any:
		return inList(v, paths, change)
	}
	return value, false
}

func inMapping(m map[string]any, paths [][]step, change func(any) (any, bool)) (any, bool) {
	var edited map[string]any
	one := func(name string) {
		old, ok := m[name]
		if !ok {
			return
		}
		value, keep, changed := entry(old, paths, func(s step) bool { return s.index == every || s.index == byName && s.name == name }, change)
		if !changed {
			return
		}
		if edited == nil {
			edited = maps.Clone(m)
		}
		if keep {
			edited[name] = value
		} else {
			delete(edited, name)
		}
	}
	if slices.ContainsFunc(paths, func(p []step) bool { return p[0].index == every }) {
		for name := range m {
			one(name)
		}
	} else {
		for _, p := range paths {
			if p[0].index == byName {
				one(p[0].name)
			}
		}
	}
	if edited == nil {
		return m, false
	}
	return edited, true
}

func inList(list []any, paths [][]step, change func(any) (any, bool)) (any, bool) {
	edited := make([]any, 0, len(list))
	edits := false
	for i, old := range list {
		value, keep, changed := entry(old, paths, func(s step) bool { return s.index == every || s.index == i }, change)
		edits = edits || changed
		if keep {
			edited = append(edited, value)
		}
	}
	if !edits {
		return list, false
	}
	return edited, true
}

// entry edits one entry of a mapping or list, of which is tells whether a step
// names it.
func entry(old any, paths [][]step, is func(step) bool, change func(any) (any, bool)) (value any, keep, changed bool) {
	var deeper [][]step
	for _, p := range paths {
		if !is(p[0]) {
			continue
		}
		if len(p) == 1 {
			value, keep = change(old)
			return value, keep, true
		}
		deeper = append(deeper, p[1:])
	}
	value, changed = within(old, deeper, change)
	return value, true, changed
}
