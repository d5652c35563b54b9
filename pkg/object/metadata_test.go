package object

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
)

// protobufs is what API servers write protobuf with, and clients read it.
func protobufs(t testing.TB) runtime.Serializer {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return protobuf.NewSerializer(scheme, scheme)
}

// written is the list as the API server writes it.
func written(t testing.TB, kind string, list runtime.Object) []byte {
	t.Helper()
	list.GetObjectKind().SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind(kind))
	var text bytes.Buffer
	if err := protobufs(t).Encode(list, &text); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

func metadataOf(namespace, name, uid, version string) metav1.PartialObjectMetadata {
	return metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(uid), ResourceVersion: version,
		GenerateName: "not-the-name", Generation: 4, Labels: map[string]string{"name": "not the name either"},
		CreationTimestamp: metav1.Unix(1, 0), Finalizers: []string{"a/b"},
		OwnerReferences: []metav1.OwnerReference{{Name: "owner", UID: "not-the-uid"}},
		ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}},
	}}
}

func pageOfMetadata(t testing.TB) []byte {
	t.Helper()
	return written(t, metadataListKind, &metav1.PartialObjectMetadataList{
		ListMeta: metav1.ListMeta{ResourceVersion: "40", Continue: "more", RemainingItemCount: new(int64(7))},
		Items: []metav1.PartialObjectMetadata{
			metadataOf("one", "a", "u-1", "12"), metadataOf("one", "b", "u-2", "13"), metadataOf("two", "a", "u-3", "14"), metadataOf("", "c", "u-4", "15"),
		},
	})
}

func TestMetadata(t *testing.T) {
	page := pageOfMetadata(t)
	for _, row := range []struct {
		why  string
		text []byte
		want *Page // nil: an error
		err  error
	}{
		{"a page: who the objects are, among much else", page, &Page{ResourceVersion: "40", Continue: "more", Objects: []*Object{
			{Namespace: "one", Name: "a", UID: "u-1", ResourceVersion: "12"}, {Namespace: "one", Name: "b", UID: "u-2", ResourceVersion: "13"},
			{Namespace: "two", Name: "a", UID: "u-3", ResourceVersion: "14"}, {Name: "c", UID: "u-4", ResourceVersion: "15"},
		}}, nil},
		{"nothing, and no more", written(t, metadataListKind, &metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}), &Page{ResourceVersion: "1"}, nil},
		{"no version", written(t, metadataListKind, &metav1.PartialObjectMetadataList{}), nil, ErrUnusual},
		{"nobody can say who it is", written(t, metadataListKind, &metav1.PartialObjectMetadataList{
			ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []metav1.PartialObjectMetadata{metadataOf("one", "a", "", "12")},
		}), nil, ErrUnusual},
		{"another kind", written(t, "PartialObjectMetadata", &metav1.PartialObjectMetadata{}), nil, errProtobuf},
		{"cut off", page[:len(page)-1], nil, errProtobuf},
		{"JSON", []byte(`{"kind":"PartialObjectMetadataList"}`), nil, errProtobuf},
		{"empty", nil, nil, errProtobuf},
	} {
		t.Run(row.why, func(t *testing.T) {
			got, err := Metadata(row.text)
			if !errors.Is(err, row.err) {
				t.Fatalf("%v, not %v", err, row.err)
			}
			if row.want == nil {
				row.want = &Page{}
			}
			if diff := cmp.Diff(*row.want, got, cmpopts.IgnoreUnexported(Object{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// FuzzMetadata compares with what Kubernetes' own decoder makes of the text:
// what both read is the same, and what that one reads is read as soon as it is
// written as the API server writes it.
func FuzzMetadata(f *testing.F) {
	page := pageOfMetadata(f)
	f.Add(page)
	f.Add(page[:len(page)/2])
	f.Add(append(bytes.Clone(page), page[len(envelope):]...))
	f.Add(written(f, "Status", &metav1.Status{Message: "no"}))
	decoder := protobufs(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Metadata(text)
		var list metav1.PartialObjectMetadataList
		if _, _, refused := decoder.Decode(text, nil, &list); refused != nil {
			return // it is stricter, with what is passed over here
		}
		want, strange := Page{ResourceVersion: list.ResourceVersion, Continue: list.Continue}, list.ResourceVersion == ""
		for i := range list.Items {
			o := &list.Items[i]
			want.Objects = append(want.Objects, &Object{Namespace: o.Namespace, Name: o.Name, UID: string(o.UID), ResourceVersion: o.ResourceVersion})
			strange = strange || !want.Objects[i].known()
		}
		if err == nil {
			samePage(t, want, got)
		}
		switch again, err := Metadata(written(t, metadataListKind, &list)); {
		case strange && errors.Is(err, ErrUnusual):
		case strange || err != nil:
			t.Errorf("strange is %t, and reading it says %v", strange, err)
		default:
			samePage(t, want, again)
		}
	})
}

func samePage(t *testing.T, want, got Page) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Object{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// BenchmarkMetadata compares ways to learn which objects there are, and in which
// version, with the fields that their managers are said to own: the metadata of
// 250 objects with a spec of 32 fields. "ns/object" is for one of them.
func BenchmarkMetadata(b *testing.B) {
	const objects, fields = 250, 32
	owned := map[string]any{}
	for i := range fields {
		owned[fmt.Sprintf("f:field%03d", i)] = map[string]any{}
	}
	raw, err := json.Marshal(map[string]any{"f:spec": owned})
	if err != nil {
		b.Fatal(err)
	}
	list := &metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: "123456"}}
	for i := range objects {
		list.Items = append(list.Items, metav1.PartialObjectMetadata{
			TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: metadataListVersion},
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("thing-%06d", i), Namespace: "default", UID: "096c777d-58c2-4584-bd70-8e4850a07570", ResourceVersion: "123456",
				Generation: 3, CreationTimestamp: metav1.Unix(1795417084, 0),
				Annotations: map[string]string{"example.com/owner": "a team"}, Labels: map[string]string{"app": "things", "tier": "gold"},
				ManagedFields: []metav1.ManagedFieldsEntry{{
					Manager: "bench", Operation: "Update", APIVersion: "bench.example.com/v1", Time: new(metav1.Unix(1795417084, 0)),
					FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(raw)),
				}},
			},
		})
	}
	binary := written(b, metadataListKind, list)
	text, err := json.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	decoder := protobufs(b)
	var s Scanner
	for _, row := range []struct {
		name string
		text []byte
		read func([]byte) error
	}{
		{"protobuf, who they are", binary, func(text []byte) error { _, err := Metadata(text); return err }},
		{"JSON, who they are", text, func(text []byte) error { _, err := s.List(text); return err }},
		{"protobuf, Kubernetes' decoder", binary, func(text []byte) error {
			_, _, err := decoder.Decode(text, nil, &metav1.PartialObjectMetadataList{})
			return err
		}},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := row.read(row.text); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/objects, "ns/object")
			b.ReportMetric(float64(len(row.text))/objects, "B/object-read")
		})
	}
}
