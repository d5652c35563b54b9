// Package when compiles and asks the expressions by which routes filter events:
// CEL, with the libraries that ValidatingAdmissionPolicy gives to its own.
package when

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// The variables of an expression.
const (
	varType      = "type"      // string: existing, created, updated, deleted or deselected
	varObject    = "object"    // dyn: the object that the event tells of
	varOldObject = "oldObject" // dyn: what it was like before; null where that is not known
)

// compatibility is the Kubernetes version whose expressions are understood. It
// is fixed, so that what a configuration means does not change with the
// libraries that the bridge is built with.
var compatibility = version.MajorMinor(1, 34)

// env is what expressions are compiled in. Making it takes some milliseconds.
var env = sync.OnceValues(func() (*cel.Env, error) {
	set, err := environment.MustBaseEnvSet(compatibility).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions: []cel.EnvOption{
			cel.Variable(varType, cel.StringType),
			cel.Variable(varObject, cel.DynType),
			cel.Variable(varOldObject, cel.DynType),
		},
	}, environment.StrictCostOpt)
	if err != nil {
		return nil, fmt.Errorf("CEL environment: %w", err)
	}
	return set.Env(environment.StoredExpressions)
})

// Error says where an expression is wrong, and why.
type Error struct {
	Line, Column int // in the expression, from 1; columns in characters
	Message      string
}

func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d of the expression: %s", e.Line, e.Column, e.Message)
}

// Program is a compiled expression. It may be used concurrently.
type Program struct {
	program  cel.Program
	needsOld bool
}

// Compile compiles an expression. Its error is the first *Error that there is.
func Compile(expression string) (*Program, error) {
	env, err := env()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expression)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		return nil, &Error{Line: max(first.Location.Line(), 1), Column: max(first.Location.Column()+1, 1), Message: strings.TrimSuffix(first.Message, " (in container '')")}
	}
	if out := ast.OutputType(); !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) && !out.IsExactType(cel.AnyType) {
		return nil, &Error{Line: 1, Column: 1, Message: fmt.Sprintf("its result is %s; it has to be true or false", out)}
	}
	program, err := env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		return nil, &Error{Line: 1, Column: 1, Message: err.Error()}
	}
	p := &Program{program: program}
	for _, reference := range ast.NativeRep().ReferenceMap() {
		p.needsOld = p.needsOld || reference.Name == varOldObject
	}
	return p, nil
}

// NeedsOld tells whether the expression asks what the object was like before.
func (p *Program) NeedsOld() bool { return p.needsOld }

var errNoBool = errors.New("its result is neither true nor false")

// Admits tells whether the expression is true. It fails where the expression
// does: a field is missing that it does not ask for with has() or ?, say, or it
// costs more than the API server lets an expression cost, which is about 0.1 s
// (celconfig.PerCallLimit). A nil old is null.
func (p *Program) Admits(kind string, object, old map[string]any) (bool, error) {
	variables := map[string]any{varType: kind, varObject: object, varOldObject: types.NullValue}
	if old != nil {
		variables[varOldObject] = old
	}
	result, _, err := p.program.Eval(variables)
	if err != nil {
		return false, err
	}
	if is, ok := result.Value().(bool); ok {
		return is, nil
	}
	return false, errNoBool
}
