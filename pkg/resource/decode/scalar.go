package decode

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
	"github.com/meshkit/meshkit/pkg/resource/fieldpath"
	"github.com/meshkit/meshkit/pkg/resource/jcs"
	"github.com/meshkit/meshkit/pkg/resource/safetext"
	"github.com/meshkit/meshkit/pkg/resource/schema"
	"go.yaml.in/yaml/v3"
)

func (w *walker) scalar(n *yaml.Node, s *schema.Schema, p *fieldpath.Path) {
	switch s.Type {
	case schema.TypeString:
		w.text(n, s, p)
	case schema.TypeDuration:
		w.duration(n, s, p)
	case schema.TypeBoolean:
		w.boolean(n, p)
	default:
		w.number(n, s, p)
	}
}

func (w *walker) boolean(n *yaml.Node, p *fieldpath.Path) {
	if n.Tag == "!!bool" && (n.Value == "true" || n.Value == "false") {
		w.out = append(w.out, n.Value...)
		return
	}
	remedy := "write true or false"
	switch strings.ToLower(n.Value) {
	case "y", "yes", "on", "true", "1":
		remedy = "write true, without quotes"
	case "n", "no", "off", "false", "0":
		remedy = "write false, without quotes"
	}
	w.errorf(fault.CodeWrongType, n, p, remedy, "expected true or false, got %s", got(n))
}

// isText says whether a scalar is text: in quotes, or not readable as another
// type.
func isText(n *yaml.Node) bool {
	return n.Tag != "!!int" && n.Tag != "!!float" && n.Tag != "!!bool" && n.Tag != "!!null"
}

func (w *walker) text(n *yaml.Node, s *schema.Schema, p *fieldpath.Path) {
	if !isText(n) {
		w.errorf(fault.CodeWrongType, n, p, fmt.Sprintf("put it in quotes: %s", safetext.Quote(n.Value)), "expected %s, got %s", s.Wanted(), got(n))
		return
	}
	v := n.Value
	f := schema.FormatOf(s.Format)
	if r, bad := safetext.FindUnsafe(v, f.Multiline); bad {
		w.errorf(fault.CodeControlCharacter, n, p, "delete it", "%s has character %s", safetext.Quote(v), safetext.Escape(r))
		return
	}
	most := s.MaxLen
	if most == 0 {
		most = w.limits.StringBytes
	}
	switch {
	case len(v) > most:
		w.errorf(fault.CodeRange, n, p, "shorten it", "%d bytes, at most %d are permitted", len(v), most)
	case len(v) < s.MinLen:
		w.errorf(fault.CodeRange, n, p, "", "%d bytes, at least %d needed", len(v), s.MinLen)
	case len(s.Enum) > 0 && !slices.Contains(s.Enum, v):
		remedy := "use one of " + strings.Join(s.Enum, ", ")
		if near, ok := resource.FindField(v, s.Enum); ok {
			remedy = "did you mean " + near + "? Known: " + strings.Join(s.Enum, ", ")
		}
		w.errorf(fault.CodeEnum, n, p, remedy, "%s is not known here", safetext.Quote(v))
	case f.Check != nil:
		if why := f.Check(v); why != "" {
			w.errorf(f.Code, n, p, "write "+f.Like, "%s %s", safetext.Quote(v), why)
		}
	}
	w.out = jcs.AppendString(w.out, v)
}

func (w *walker) duration(n *yaml.Node, s *schema.Schema, p *fieldpath.Path) {
	if !isText(n) {
		remedy := "write it with a unit, like 250ms, 2s or 1h30m"
		if n.Tag == "!!int" && jcs.IsInteger(n.Value) && len(n.Value) < 12 {
			remedy = fmt.Sprintf("add a unit: %ss or %sms", n.Value, n.Value)
		}
		w.errorf(fault.CodeWrongType, n, p, remedy, "expected duration like 250ms, got %s", got(n))
		return
	}
	d, err := time.ParseDuration(n.Value)
	if err != nil || len(n.Value) > 32 {
		w.errorf(fault.CodeFormat, n, p, "write a number and a unit (ns, us, ms, s, m, h), like 250ms or 1h30m", "expected duration like 250ms, got %s", got(n))
		return
	}
	w.bounds(n, s, p, float64(d), func(f float64) string { return resource.Duration(f).String() })
	if s.Nanoseconds {
		w.out = strconv.AppendInt(w.out, int64(d), 10)
		return
	}
	w.out = jcs.AppendString(w.out, n.Value)
}

func (w *walker) number(n *yaml.Node, s *schema.Schema, p *fieldpath.Path) {
	v := n.Value
	switch {
	case n.Tag != "!!int" && n.Tag != "!!float":
		remedy := ""
		if jcs.IsNumber(v) {
			remedy = "remove the quotes"
		} else if t, ok := strings.CutSuffix(v, "%"); ok && jcs.IsNumber(t) {
			remedy = "write " + t + ", without the percent sign"
		}
		w.errorf(fault.CodeWrongType, n, p, remedy, "expected %s, got %s", s.Type, got(n))
		return
	case s.Type == schema.TypeInteger && !jcs.IsInteger(v):
		w.errorf(fault.CodeWrongType, n, p, "write a whole number in decimal, without sign +, leading zeros, '_' or exponent", "expected integer, got %s", got(n))
		return
	case !jcs.IsNumber(v):
		w.errorf(fault.CodeWrongType, n, p, "write it in decimal, like 12.5", "expected number, got %s", got(n))
		return
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		w.errorf(fault.CodeRange, n, p, "use a smaller number", "%s is out of range", got(n))
		return
	}
	w.bounds(n, s, p, f, func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) })
	w.out = jcs.AppendNumber(w.out, f)
}

func (w *walker) bounds(n *yaml.Node, s *schema.Schema, p *fieldpath.Path, v float64, show func(float64) string) {
	if s.Min != nil && v < *s.Min || s.Max != nil && v > *s.Max {
		w.errorf(fault.CodeRange, n, p, "use a value "+s.Range(show), "%s is out of range", strings.Trim(safetext.Quote(n.Value), `"`))
	}
}
