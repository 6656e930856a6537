"""Texts of HCL's native syntax, valid and invalid: the settings and HashiCorp's parser must agree about them."""

HCL_REFUSED = [
    ('host "a.org" {\n', "'{' in line 1 is never closed"),
    ("x = [1, 2\n", "'[' in line 1 is never closed"),
    ("a {\n}\n}\n", "'}' in line 3 closes nothing"),
    ("a {\n]\n}\n", "']' in line 2 closes nothing"),
    ('name = "a\n', "quotation mark in line 1"),
    ("/* a", "comment in line 1"),
    ("a = <<EOT\nb\n", "text in line 1"),
    ("\na =\n", "in line 2 a value is missing"),
    ("a = = 3\n", "in line 1 a value is missing"),
    ("a = 1 b = 2\n", "in line 1 something follows the value"),
    ("a = 1;\n", "in line 1 something follows the value"),
    ("a = 'b'\n", "in line 1 a value is missing"),
    ("a = 1\na = 2\n", "the name in line 2 has a value already"),
    ("host a.org\n", "in line 1 there is neither 'name = value' nor a block with its '{'"),
    ('"a" = 1\n', "in line 1 there is neither 'name = value' nor a block"),
    ('{"host": "a"}\n', "in line 1 there is neither 'name = value' nor a block"),
    ('a "b" { c = 1, d = 2 }\n', "in line 1 there is no second line and no '}'"),
    ("a { b = 1\n}\n", "the block in line 1 begins on that line and does not end on it"),
    ("a {\n} b {\n}\n", "in line 2 something follows the block"),
    ('host "a.${b}" {\n}\n', "in line 1 the label of a block is computed"),
    ('a = "${b"\n', "in line 1 there is no '}'"),
    ('a = "\\q"\n', "in line 1 a backslash is followed by no known letter"),
    ('a = "%{ if b }c"\n', "in line 1 '%{ if' has no end"),
    ("a = [1 2]\n", "in line 1 there is no comma or ']'"),
    ("a = { b = 1 c = 2 }\n", "in line 1 there is no comma or '}'"),
    ("a = b ? c\n", "in line 1 the condition has no ':'"),
    ("a = b.\n", "in line 1 a name is missing after the dot"),
    ("a = [for b c: d]\n", "in line 1 the 'for' has no 'in'"),
    (f"a = {'[' * 100}\n", "in line 1 more than 64 brackets are open"),
]
"""Texts that are no HCL, each with its fault."""
HCL_ACCEPTED = [
    'host "www.noted.at" {\n  name = "x}" # {\n  backend = "${env("B")}"\n}\n',
    "a = <<-EOT\n  }}} {\n  EOT\n// {\n",
    'a = "${f("${b["c"]}", d...)}%{ if e ~}f%{ else }$${%{ endif }"\n',
    "a b {}\nc { d = 1 } # e\nf = [\n  1, /* 2 */\n  -3,\n]\n",
    'a = {\n  b   = !c && d >= 1.5e3\n  "e": (f\n    ? g::h(1)\n    : null)\n}\n',
    "a = [for k, v in b.c[*].d[0] : v if v]\nd = {for k, v in e : k => v...}\n",
    'license {\n  key = "\\u00e9\\n"\n}\r\n',
]
"""Texts that are HCL."""
