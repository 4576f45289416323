// Command prototable writes the field table that the API server decodes Kubernetes protobuf
// bodies with.
//
// The `.proto` files alone do not tell how a field looks in JSON: which messages are inlined,
// which names differ, and whether a zero on the wire was said (a Go pointer) or merely written
// because Go writes every plain scalar. The struct tags of the Go types tell all of it, so the
// table is read from them by reflection. Only names, numbers and types are taken, which are
// facts; the source, k8s.io/api, is licensed under Apache-2.0.
//
// Run in this folder: GOFLAGS=-mod=mod go run . > ../table.txt
package main

import (
	"bufio"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

// marshaler is what every generated protobuf message of Kubernetes implements.
type marshaler interface{ Marshal() ([]byte, error) }

var (
	marshalerType = reflect.TypeFor[marshaler]()
	kinds         = map[reflect.Type][]string{}
	messages      = map[string]reflect.Type{}
	specials      = map[string]string{
		"k8s.io/apimachinery/pkg/api/resource.Quantity":   "quantity",
		"k8s.io/apimachinery/pkg/util/intstr.IntOrString": "intorstring",
		"k8s.io/apimachinery/pkg/apis/meta/v1.Time":       "time",
		"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":  "microtime",
		"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":   "duration",
		"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":   "json",
		"k8s.io/apimachinery/pkg/runtime.RawExtension":    "json",
	}
)

func main() {
	for gvk, t := range scheme.Scheme.AllKnownTypes() {
		// Only stable versions are served, and __internal is no wire form at all.
		stable := !strings.ContainsAny(gvk.Version, "_ab")
		if !stable || t.PkgPath() == "k8s.io/apimachinery/pkg/apis/meta/v1" {
			continue
		}
		version := gvk.GroupVersion().String()
		if strings.HasSuffix(gvk.Kind, "List") || gvk.Kind == "WatchEvent" {
			continue
		}
		kinds[t] = append(kinds[t], version+"/"+gvk.Kind)
		visit(t)
	}
	for kind, t := range map[string]reflect.Type{
		"DeleteOptions": reflect.TypeFor[metav1.DeleteOptions](),
		"Status":        reflect.TypeFor[metav1.Status](),
	} {
		kinds[t] = []string{"*/" + kind}
		visit(t)
	}
	names := make([]string, 0, len(messages))
	for name := range messages {
		names = append(names, name)
	}
	sort.Strings(names)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, name := range names {
		t := messages[name]
		sort.Strings(kinds[t])
		fmt.Fprintln(out, strings.TrimSpace(":"+name+" "+strings.Join(kinds[t], " ")))
		describe(out, t)
	}
}

// label shortens a Go type's path to the part that tells it from others.
func label(t reflect.Type) string {
	path := strings.TrimPrefix(t.PkgPath(), "k8s.io/api/")
	path = strings.TrimPrefix(path, "k8s.io/apimachinery/pkg/apis/")
	return path + "." + t.Name()
}

func visit(t reflect.Type) {
	if _, seen := messages[label(t)]; seen {
		return
	}
	messages[label(t)] = t
	if t.Kind() == reflect.Slice {
		return
	}
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("protobuf"); tag == "" || tag == "-" {
			continue
		}
		typeOf(t.Field(i).Type, "")
	}
}

// describe writes `number name type rule`: one line per field.
func describe(out *bufio.Writer, t reflect.Type) {
	if t.Kind() == reflect.Slice {
		fmt.Fprintf(out, "1 - list\n")
		return
	}
	for i := range t.NumField() {
		field := t.Field(i)
		proto := strings.Split(field.Tag.Get("protobuf"), ",")
		if len(proto) < 2 {
			continue
		}
		json := strings.Split(field.Tag.Get("json"), ",")
		name := json[0]
		if name == "-" {
			continue
		}
		if name == "" {
			name = "+" // inlined into the parent
		}
		rule := "keep"
		if field.Type.Kind() == reflect.Pointer {
			rule = "said"
		} else if strings.Contains(field.Tag.Get("json"), "omit") {
			rule = "omit"
		}
		fmt.Fprintf(out, "%s %s %s %s\n", proto[1], name, typeOf(field.Type, proto[0]), rule)
	}
}

// typeOf names a field's type: a scalar, `message`, `[]…` or `map:…`.
func typeOf(t reflect.Type, wire string) string {
	if t.Kind() == reflect.Pointer {
		return typeOf(t.Elem(), wire)
	}
	if special, ok := specials[t.PkgPath()+"."+t.Name()]; ok {
		return special
	}
	message := t.PkgPath() != "" && reflect.PointerTo(t).Implements(marshalerType)
	switch t.Kind() {
	case reflect.Struct:
		visit(t)
		return label(t)
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint8, reflect.Uint32, reflect.Uint64:
		return "int"
	case reflect.Float64:
		return "double"
	case reflect.Slice:
		if message {
			visit(t)
			return label(t)
		}
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[]" + typeOf(t.Elem(), wire)
	case reflect.Map:
		return "map:" + typeOf(t.Elem(), "")
	}
	panic("no rule for " + t.String())
}
