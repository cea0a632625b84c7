package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// Bounds of an expression. The cost is CEL's own count of steps: at its limit an
// expression takes some milliseconds.
const (
	maxExpression = 4096 // bytes of source
	maxCost       = 100_000
	costModel     = 1 // costs decide, so they do not change with the library
	maxRegexp     = 1000
)

// expression is a compiled CEL expression. It is safe for concurrent use.
//
// Its answer follows from its variables alone: there is no clock but
// registrationTime, maps are walked in the order of their keys, and what would
// depend on something else (the time zones of a machine) is not admitted.
type expression struct {
	program cel.Program
	timed   bool // it reads registrationTime
}

// expressionError says what is wrong at one place of an expression; both count
// from 1.
type expressionError struct {
	line, column int
	message      string
}

func (e *expressionError) Error() string {
	return fmt.Sprintf("%s (line %d column %d of the expression)", e.message, e.line, e.column)
}

// variables are what an expression may read.
var variables = map[string]struct {
	kind *cel.Type
	size uint64 // at most, of the text or the list; 0: not known
	elem uint64 // of an element
}{
	"issuer":              {cel.StringType, 8192, 0},
	"subject":             {cel.StringType, 2048, 0},
	"mediaType":           {cel.StringType, 255, 0},
	"predicateType":       {cel.StringType, 2048, 0},
	"alg":                 {cel.StringType, 16, 0},
	"evidence":            {cel.StringType, 135, 0},
	"artifacts":           {cel.ListType(cel.StringType), 256, 135},
	"repositories":        {cel.ListType(cel.StringType), 64, 255},
	"claims":              {cel.MapType(cel.StringType, cel.DynType), 0, 0},
	"payload":             {cel.DynType, 0, 0},
	"registrationTime":    {cel.TimestampType, 1, 0},
	"identity.kind":       {cel.StringType, 16, 0},
	"identity.issuer":     {cel.StringType, 8192, 0},
	"identity.name":       {cel.StringType, 8192, 0},
	"identity.thumbprint": {cel.StringType, 128, 0},
	"certificate.subject": {cel.StringType, 4096, 0},
	"certificate.issuer":  {cel.StringType, 4096, 0},
	"certificate.serial":  {cel.StringType, 64, 0},
	"certificate.sans":    {cel.ListType(cel.StringType), 256, 2048},
}

// ResolveName gives an expression the value of a variable.
func (m *matter) ResolveName(name string) (any, bool) {
	leaf := m.who.certificate
	switch name {
	case "issuer":
		return m.Issuer, true
	case "subject":
		return m.Subject, true
	case "mediaType":
		return m.MediaType(), true
	case "predicateType":
		return m.PredicateType(), true
	case "alg":
		return m.Alg.String(), true
	case "evidence":
		return string(m.Evidence()), true
	case "artifacts":
		list := make([]string, len(m.artifacts))
		for i, d := range m.artifacts {
			list[i] = string(d)
		}
		return list, true
	case "repositories":
		return append([]string{}, m.signedRepositories()...), true
	case "claims":
		if m.shownClaims == nil {
			m.shownClaims = ordered{}.NativeToValue(m.allClaims())
		}
		return m.shownClaims, true
	case "payload":
		if m.shownPayload == nil {
			m.shownPayload = ordered{}.NativeToValue(m.json())
		}
		return m.shownPayload, true
	case "registrationTime":
		return types.Timestamp{Time: m.now.UTC().Truncate(time.Second)}, true
	case "identity.kind":
		return m.who.identity.Kind, true
	case "identity.issuer":
		return m.who.identity.Issuer, true
	case "identity.name":
		return m.who.identity.Name, true
	case "identity.thumbprint":
		return m.who.identity.Thumbprint, true
	case "certificate.subject":
		if leaf == nil {
			return "", true
		}
		return leaf.Subject.String(), true
	case "certificate.issuer":
		if leaf == nil {
			return "", true
		}
		return leaf.Issuer.String(), true
	case "certificate.serial":
		if leaf == nil {
			return "", true
		}
		return leaf.SerialNumber.Text(16), true
	case "certificate.sans":
		list := []string{}
		if leaf != nil {
			for _, name := range altNames(leaf) {
				list = append(list, name.value)
			}
		}
		return list, true
	}
	return nil, false
}

// Parent is nil: there are no other variables.
func (m *matter) Parent() cel.Activation { return nil }

// celEnv is the environment of every expression: the standard library, and
// variables.
var celEnv = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ExpressionNodeLimit(4 * maxExpression),
		cel.RegexProgramSizeLimit(maxRegexp),
		cel.CostModelVersion(costModel),
		cel.CrossTypeNumericComparisons(true),
		cel.Function(overloads.TypeConvertTimestamp, cel.Overload(overloads.StringToTimestamp,
			[]*cel.Type{cel.StringType}, cel.TimestampType, cel.UnaryBinding(readTimestamp))),
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		options = append(options, cel.Variable(name, variables[name].kind))
	}
	return cel.NewEnv(options...)
})

// readTimestamp is CEL's own, in UTC: CEL keeps an offset, and where it is the
// machine's own, Go takes that for the machine's time zone with its summer time.
func readTimestamp(text ref.Val) ref.Val {
	v := text.ConvertToType(types.TimestampType)
	if t, ok := v.(types.Timestamp); ok {
		return types.Timestamp{Time: t.UTC()}
	}
	return v
}

// compileExpression checks source and makes it ready. Its errors are
// expressionErrors where they have a place.
func compileExpression(source string) (*expression, error) {
	if len(source) > maxExpression {
		return nil, fmt.Errorf("has more than %d bytes", maxExpression)
	}
	env, err := celEnv()
	if err != nil {
		return nil, err
	}
	checked, issues := env.Compile(source)
	if list := issues.Errors(); len(list) > 0 {
		first := slices.MinFunc(list, func(a, b *cel.Error) int {
			return cmp.Or(cmp.Compare(a.Location.Line(), b.Location.Line()), cmp.Compare(a.Location.Column(), b.Location.Column()))
		})
		return nil, &expressionError{max(1, first.Location.Line()), max(1, first.Location.Column()+1), oneLine(first.Message)}
	}
	if checked.OutputType() != cel.BoolType {
		return nil, &expressionError{1, 1, fmt.Sprintf("is of type %s; want bool, as by a comparison", checked.OutputType())}
	}
	x := &expression{}
	if err := x.inspect(checked.NativeRep()); err != nil {
		return nil, err
	}
	estimate, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, err
	}
	// A cost that has no bound beforehand is bounded while it runs.
	if worst := estimate.Max; worst > maxCost && worst != unbounded || estimate.Min > maxCost {
		return nil, &expressionError{1, 1, fmt.Sprintf("may cost %d steps; at most %d are taken, so compare fewer things with one another", max(estimate.Min, worst), maxCost)}
	}
	x.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostTracking(prices{}), cel.CostLimit(maxCost))
	return x, err
}

const unbounded = ^uint64(0)

// prices are what CEL's own count takes too little for: comparing, where it takes
// a list or map for its length, whatever is in it; reading all of a text; putting
// lists together, which is one step however long they are; and all that is done to
// values whose type shows only now, as in a payload.
type prices struct{}

func (prices) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	var steps uint64
	switch function {
	case operators.Equals, operators.NotEquals:
		// No more than what is alike can be is looked at, here as there.
		for most := uint64(16); most <= 2*maxCost; most *= 2 {
			if steps = min(weight(args[0], most), weight(args[1], most)); steps < most {
				break
			}
		}
	case operators.In:
		if steps = 1; args[1].Type() == types.ListType {
			steps = weight(args[1], maxCost)
		}
	case operators.Add:
		steps = textWeight(result)
		list, is := result.(traits.Lister)
		if _, growing := result.(traits.MutableLister); is && !growing {
			n, _ := list.Size().(types.Int)
			steps += uint64(max(0, n))
		}
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		steps = min(textWeight(args[0]), textWeight(args[1]))
	case overloads.Size, overloads.TypeConvertBool, overloads.TypeConvertBytes, overloads.TypeConvertDouble, overloads.TypeConvertDuration,
		overloads.TypeConvertInt, overloads.TypeConvertString, overloads.TypeConvertTimestamp, overloads.TypeConvertUint:
		steps = textWeight(args[0])
	default:
		return nil
	}
	return &steps
}

// weight counts the values in v, and their text by tens of bytes, up to about most.
func weight(v ref.Val, most uint64) uint64 {
	total := textWeight(v)
	switch v := v.(type) {
	case traits.Mapper:
		for it := v.Iterator(); it.HasNext() == types.True && total < most; {
			key := it.Next()
			total += weight(key, most-total)
			total += weight(v.Get(key), most-min(total, most))
		}
	case traits.Lister:
		for it := v.Iterator(); it.HasNext() == types.True && total < most; {
			total += weight(it.Next(), most-total)
		}
	}
	return total
}

func textWeight(v ref.Val) uint64 {
	switch v := v.(type) {
	case types.String:
		return 1 + uint64(len(v)/10)
	case types.Bytes:
		return 1 + uint64(len(v)/10)
	}
	return 1
}

// oneLine: what CEL says may repeat the source.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// inspect refuses what is legal CEL and has an answer that something else than
// the variables could change, and notes what the expression reads.
func (x *expression) inspect(checked *ast.AST) error {
	var found error
	refuse := func(e ast.Expr, format string, args ...any) {
		if found == nil {
			at := checked.SourceInfo().GetStartLocation(e.ID())
			found = &expressionError{max(1, at.Line()), max(1, at.Column()+1), fmt.Sprintf(format, args...)}
		}
	}
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.MapKind, ast.StructKind:
			refuse(e, "makes a map or message; expressions only read them")
		case ast.IdentKind:
			x.timed = x.timed || e.AsIdent() == "registrationTime"
		case ast.CallKind:
			call := e.AsCall()
			for _, id := range checked.GetOverloadIDs(e.ID()) {
				if strings.HasSuffix(id, "_with_tz") {
					refuse(e, "%s takes no time zone here; times are UTC", call.FunctionName())
				}
			}
			if call.FunctionName() == overloads.Matches {
				if pattern := call.Args()[len(call.Args())-1]; pattern.Kind() != ast.LiteralKind {
					refuse(e, "matches takes a pattern that is written out")
				}
			}
		}
	}))
	return found
}

// sizes tells the estimate of costs how large variables can be.
type sizes struct{}

func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	path := node.Path()
	if len(path) == 0 {
		return nil
	}
	v, ok := variables[path[0]]
	switch {
	case !ok || v.size == 0:
		return nil
	case len(path) == 1:
		return &cost.SizeEstimate{Max: v.size}
	case path[1] == "@items":
		return &cost.SizeEstimate{Max: v.elem}
	}
	return nil
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// checkExpression judges who signed, and all else, by the rule's expression.
func (c *condition) checkExpression(m *matter, w *window) *Refusal {
	if c.expression == nil {
		return nil
	}
	if c.expression.timed {
		second := m.now.UTC().Truncate(time.Second)
		w.narrow(second, second.Add(time.Second-1))
	}
	out, _, err := c.expression.program.Eval(m)
	var ended interpreter.EvalCancelledError
	switch {
	case errors.As(err, &ended) && ended.Cause == interpreter.CostLimitExceeded:
		return c.refuse("cel", "send a smaller payload, or fewer artifacts and claims", "the rule's expression takes more than %d steps for this statement", maxCost)
	case err != nil:
		return c.refuse("cel", "give the statement what the expression reads: "+quote(c.CEL), "the rule's expression has no answer for this statement: %s", quote(oneLine(err.Error())))
	case out != types.True:
		return c.refuse("cel", "make a statement for which it is true", "the rule's expression is false: %s", quote(c.CEL))
	}
	return nil
}

// ordered gives expressions maps that are walked in the order of their keys, so
// that an answer, its errors and its cost do not depend on Go's. They are sorted
// once: to begin a walk is a step like any other.
type ordered struct{}

func (a ordered) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		shown := make(map[string]any, len(v))
		for _, k := range keys {
			shown[k] = a.NativeToValue(v[k])
		}
		return orderedMap{types.NewStringInterfaceMap(a, shown), types.NewStringList(a, keys)}
	case []any:
		shown := make([]ref.Val, len(v))
		for i, e := range v {
			shown[i] = a.NativeToValue(e)
		}
		return types.NewRefValList(a, shown)
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

type orderedMap struct {
	traits.Mapper
	keys traits.Lister
}

func (m orderedMap) Iterator() traits.Iterator { return m.keys.Iterator() }
