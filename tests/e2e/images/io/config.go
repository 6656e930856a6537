package main

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
)

// A dialect is IO's configuration language as one time's public pages and examples have it.
type dialect struct {
	name string
	// The block that gives a public name its backend.
	ingress string
	// The words that no file of the other dialect has.
	own []string
	file,
	body *hcl.BodySchema
}

// Blocks of both dialects. What is in them is not looked at, since nothing about it is public.
var common = []hcl.BlockHeaderSchema{
	{Type: "license"},
	{Type: "service_account_key"},
	{Type: "secret", LabelNames: []string{"id"}},
	{Type: "credential", LabelNames: []string{"id"}},
	{Type: "user", LabelNames: []string{"id"}},
}

var attributes = []hcl.AttributeSchema{{Name: "name"}, {Name: "backend", Required: true}}

// The examples of agentio on GitHub, mid-2025 and July 2026, and agentio.dev/io/config. Of blocks other than the
// ingress the name alone is checked: the stand-in does nothing with them, and says so.
var dialects = []dialect{
	{
		name:    "2025",
		ingress: "host",
		own:     []string{"host", "serve", "call"},
		file: schema(nil, append([]hcl.BlockHeaderSchema{
			{Type: "host", LabelNames: []string{"hostname"}},
			{Type: "serve", LabelNames: []string{"id"}},
			{Type: "call", LabelNames: []string{"id"}},
			{Type: "ingress"},
			{Type: "calling"},
		}, common...)),
		body: schema(attributes, []hcl.BlockHeaderSchema{
			{Type: "atproto"},
			{Type: "oauth", LabelNames: []string{"provider"}},
		}),
	},
	{
		name:    "2026",
		ingress: "ingress",
		file: schema(nil, append([]hcl.BlockHeaderSchema{
			{Type: "ingress", LabelNames: []string{"hostname"}},
			{Type: "serving", LabelNames: []string{"id"}},
			{Type: "calling", LabelNames: []string{"id"}},
		}, common...)),
		body: schema(attributes, []hcl.BlockHeaderSchema{
			{Type: "oauth_client", LabelNames: []string{"provider"}},
		}),
	},
}

func schema(attributes []hcl.AttributeSchema, blocks []hcl.BlockHeaderSchema) *hcl.BodySchema {
	return &hcl.BodySchema{Attributes: attributes, Blocks: blocks}
}

// A backend is where an ingress's requests go: a Nomad service, or an address.
type backend struct{ service, address string }

// A config is what the files say, as far as the stand-in does it.
type config struct {
	dialect string
	// Public name, in lower case, to backend.
	ingresses map[string]backend
	// What IO would do and the stand-in doesn't, a line each.
	leftOut []string
}

// Read parses the files as one, in any order. Its errors name file, line and what is wrong there, and quote no values:
// a licence is in one of these files.
func read(files []string) (*config, error) {
	parser := hclparse.NewParser()
	parsed := make([]*hcl.File, 0, len(files))
	for _, name := range files {
		file, found := parser.ParseHCLFile(name)
		if found.HasErrors() {
			return nil, faults(found)
		}
		parsed = append(parsed, file)
	}
	body := hcl.MergeFiles(parsed)
	spoken, err := dialectOf(body)
	if err != nil {
		return nil, err
	}
	content, found := body.Content(spoken.file)
	made := &config{dialect: spoken.name, ingresses: map[string]backend{}}
	for _, block := range content.Blocks {
		if block.Type == spoken.ingress && len(block.Labels) == 1 {
			found = append(found, made.add(block, spoken.body)...)
		} else {
			made.leave(block)
		}
	}
	if found.HasErrors() {
		return nil, faults(found)
	}
	return made, nil
}

// The words of 2025 tell: `ingress` means something else there.
func dialectOf(body hcl.Body) (*dialect, error) {
	old, young := &dialects[0], &dialects[1]
	found, _, _ := body.PartialContent(old.file)
	var first *hcl.Block
	for _, block := range found.Blocks {
		if first == nil && slices.Contains(old.own, block.Type) {
			first = block
		}
	}
	if first == nil {
		return young, nil
	}
	labelled, _, _ := body.PartialContent(young.file)
	for _, block := range labelled.Blocks.OfType(young.ingress) {
		return nil, fmt.Errorf("%s: `ingress` with a name is of 2026, `%s` in %s of 2025: no IO reads both",
			block.DefRange, first.Type, first.DefRange)
	}
	return old, nil
}

func (made *config) add(block *hcl.Block, schema *hcl.BodySchema) hcl.Diagnostics {
	content, found := block.Body.Content(schema)
	for _, inner := range content.Blocks {
		made.leave(inner)
	}
	attribute := content.Attributes["backend"]
	if found.HasErrors() || attribute == nil {
		return found
	}
	var name, text string
	if attribute := content.Attributes["name"]; attribute != nil {
		found = append(found, gohcl.DecodeExpression(attribute.Expr, nil, &name)...)
	}
	found = append(found, gohcl.DecodeExpression(attribute.Expr, nil, &text)...)
	if found.HasErrors() {
		return found
	}
	target, err := backendOf(text)
	if err != nil {
		found = append(found, fault("No backend", err.Error(), attribute.Expr.Range()))
	}
	hostname := strings.ToLower(block.Labels[0])
	if _, there := made.ingresses[hostname]; there {
		found = append(found, fault("Second "+block.Type, hostname+" has one already.", block.DefRange))
	}
	made.ingresses[hostname] = target
	return found
}

func (made *config) leave(block *hcl.Block) {
	made.leftOut = append(made.leftOut, fmt.Sprintf("%s: `%s` is IO's; the stand-in does nothing with it",
		block.DefRange, block.Type))
}

var serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

func backendOf(text string) (backend, error) {
	if service, is := strings.CutPrefix(text, "nomad:"); is {
		if !serviceName.MatchString(service) {
			return backend{}, fmt.Errorf("%q is no name of a Nomad service", service)
		}
		return backend{service: service}, nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" || !regexp.MustCompile(`^[0-9]{1,5}$`).MatchString(port) {
		return backend{}, fmt.Errorf("the stand-in serves nomad:SERVICE and HOST:PORT, not %q", text)
	}
	return backend{address: text}, nil
}

func fault(summary, detail string, where hcl.Range) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &where}
}

func faults(found hcl.Diagnostics) error {
	lines := make([]string, 0, len(found))
	for _, fault := range found {
		lines = append(lines, fault.Error())
	}
	return fmt.Errorf("%s", strings.Join(lines, "\n"))
}
