package object

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// errProtobuf is about bytes that are no protobuf, or not what they are said
// to be.
var errProtobuf = errors.New("not protobuf as the API server writes it")

// envelope is what the API server puts before protobuf
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding).
var envelope = []byte("k8s\x00")

// Numbers of fields, from the generated.proto files of
// k8s.io/apimachinery/pkg/runtime and k8s.io/apimachinery/pkg/apis/meta/v1.
const (
	unknownTypeMeta, unknownRaw               = 1, 2
	typeMetaAPIVersion, typeMetaKind          = 1, 2
	listMetadata, listItems                   = 1, 2
	listMetaResourceVersion, listMetaContinue = 2, 3
	itemMetadata                              = 1
	objectMetaName, objectMetaNamespace       = 1, 3
	objectMetaUID, objectMetaResourceVersion  = 5, 6
	metadataListKind                          = "PartialObjectMetadataList"
	metadataListVersion                       = metav1.GroupName + "/v1"
)

// Metadata reads a PartialObjectMetadataList in protobuf. Its objects have no
// JSON, and share nothing with the text. All but who they are is passed over
// unread, which is why this is protobuf: it says how long everything is.
//
// It fails with ErrUnusual where an object has no name, uid or resource version,
// or the list no resource version.
func Metadata(text []byte) (p Page, err error) {
	raw, err := unwrap(text)
	if err != nil {
		return Page{}, fmt.Errorf("a list of metadata: %w", err)
	}
	namespace := "" // the last one: objects that follow each other share it
	err = fields(raw, func(n protowire.Number, value []byte) error {
		switch n {
		case listMetadata:
			return fields(value, func(n protowire.Number, value []byte) error {
				switch n {
				case listMetaResourceVersion:
					p.ResourceVersion = string(value)
				case listMetaContinue:
					p.Continue = string(value)
				}
				return nil
			})
		case listItems:
			o, err := item(value, namespace)
			p.Objects, namespace = append(p.Objects, o), o.Namespace
			return err
		}
		return nil
	})
	if err != nil {
		return Page{}, fmt.Errorf("a list of metadata: %w", err)
	}
	for _, o := range p.Objects {
		if !o.known() {
			return Page{}, ErrUnusual
		}
	}
	if p.ResourceVersion == "" {
		return Page{}, ErrUnusual
	}
	return p, nil
}

func item(text []byte, namespace string) (*Object, error) {
	o := &Object{}
	return o, fields(text, func(n protowire.Number, value []byte) error {
		if n != itemMetadata {
			return nil
		}
		return fields(value, func(n protowire.Number, value []byte) error {
			switch n {
			case objectMetaName:
				o.Name = string(value)
			case objectMetaNamespace:
				if o.Namespace = namespace; string(value) != namespace {
					o.Namespace = string(value)
				}
			case objectMetaUID:
				o.UID = string(value)
			case objectMetaResourceVersion:
				o.ResourceVersion = string(value)
			}
			return nil
		})
	})
}

// unwrap is the list in the envelope.
func unwrap(text []byte) (raw []byte, err error) {
	inside, enveloped := bytes.CutPrefix(text, envelope)
	if !enveloped {
		return nil, errProtobuf
	}
	var apiVersion, kind string
	err = fields(inside, func(n protowire.Number, value []byte) error {
		switch n {
		case unknownTypeMeta:
			return fields(value, func(n protowire.Number, value []byte) error {
				switch n {
				case typeMetaAPIVersion:
					apiVersion = string(value)
				case typeMetaKind:
					kind = string(value)
				}
				return nil
			})
		case unknownRaw:
			raw = value
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case kind != metadataListKind || apiVersion != metadataListVersion:
		return nil, fmt.Errorf("%w: %s of %s where %s of %s was asked for", errProtobuf, kind, apiVersion, metadataListKind, metadataListVersion)
	}
	return raw, nil
}

// fields gives the fields of a message that have a length, in their order.
func fields(message []byte, field func(n protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("%w: %w", errProtobuf, protowire.ParseError(n))
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return fmt.Errorf("%w: %w", errProtobuf, protowire.ParseError(n))
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return fmt.Errorf("%w: %w", errProtobuf, protowire.ParseError(n))
		}
		message = message[n:]
		if err := field(number, value); err != nil {
			return err
		}
	}
	return nil
}
