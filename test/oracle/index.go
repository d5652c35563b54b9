package oracle

import (
	"cmp"
	"slices"
)

// history is a past by object.
type history struct {
	revision int64
	objects  []*object // in the order of their births
	byUID    map[string]*object
	byName   map[place][]*object // namesakes, in the order of their births
}

type place struct {
	resource Resource
	key      string
}

// object is one life of an object, from its creation to its deletion.
type object struct {
	resource  Resource
	namespace string
	key       string
	uid       string
	versions  []Version // that were written
	death     int64     // the revision of its deletion; 0 if it is there
}

func (o *object) newest() *Version { return &o.versions[len(o.versions)-1] }
func (o *object) born() int64      { return o.versions[0].Revision }

func index(past Past) *history {
	h := &history{revision: past.Revision, byUID: map[string]*object{}, byName: map[place][]*object{}}
	for i := range past.Versions {
		v := &past.Versions[i]
		o := h.byUID[v.UID]
		if o == nil {
			o = &object{resource: v.Resource, namespace: v.Namespace, key: v.Key(), uid: v.UID}
			h.byUID[v.UID] = o
			h.objects = append(h.objects, o)
			where := place{v.Resource, o.key}
			h.byName[where] = append(h.byName[where], o)
		}
		if v.Deleted {
			o.death = v.Revision
		} else {
			o.versions = append(o.versions, *v)
		}
	}
	return h
}

// at is the position among the object's versions of the one with the revision.
func (o *object) at(revision int64) (int, bool) {
	return slices.BinarySearchFunc(o.versions, revision, func(v Version, r int64) int {
		return cmp.Compare(v.Revision, r)
	})
}

// thereAt says whether the object was there at a revision.
func (o *object) thereAt(revision int64) bool {
	return o.born() <= revision && (o.death == 0 || revision < o.death)
}

// lost says whether the bridge may have missed what happened at the revision.
func (c *checker) lost(r Resource, revision int64) bool {
	return c.lostWithin(r, revision-1, revision)
}

// lostWithin says whether the bridge may have missed something after the one
// revision and not after the other.
func (c *checker) lostWithin(r Resource, after, until int64) bool {
	return slices.ContainsFunc(c.expected.Lossy, func(w Window) bool {
		return w.concerns(r) && after < w.To && w.From <= until
	})
}

// notLost counts the versions that the bridge cannot have missed, and returns
// the revision of the first.
func (c *checker) notLost(versions []Version) (count int, first int64) {
	for i := range versions {
		if v := &versions[i]; !c.lost(v.Resource, v.Revision) {
			if count == 0 {
				first = v.Revision
			}
			count++
		}
	}
	return count, first
}
