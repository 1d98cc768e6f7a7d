# SPDX-License-Identifier: MIT
"""README.md, CONTRIBUTING.md, NEWS.md and docs/ say what is so: files that they name are there,
keys of experiments exist, the README's experiment is one, commands have the options shown.

usage: test_docs.py MOECTL REPOSITORY
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

MOECTL, ROOT = sys.argv[1], pathlib.Path(sys.argv[2])
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "NEWS.md")]
PAGES += sorted((ROOT / "docs").glob("*.md")) + [ROOT / "examples/README.md"]
FOLDERS = "include|lib|cl|configs|examples|bench|test|scripts|docs"


def help_of(*topic):
    return subprocess.run([MOECTL, "help", *topic], check=True, capture_output=True,
                          encoding="utf-8").stdout


class Docs(unittest.TestCase):
    def test_links(self):
        links = 0
        for page in PAGES:
            for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
                if "://" not in target:
                    links += 1
                    self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")
        self.assertGreater(links, 15)

    def test_paths(self):
        """In backticks, without anything to be filled in."""
        paths = 0
        for page in PAGES:
            for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", page.read_text(encoding="utf-8")):
                paths += 1
                self.assertTrue((ROOT / path).exists(), f"{page.name}: {path}")
        self.assertGreater(paths, 50)

    def test_readme(self):
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        self.assertLess(len(text.split("\n")), 240)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "readme.yaml"
            path.write_text(re.search(r"```yaml\n(.*?)```", text, re.S)[1], encoding="utf-8")
            result = subprocess.run([MOECTL, "explain", path, "--set", "layer.top_k=1"],
                                    capture_output=True, encoding="utf-8")
        self.assertIn(result.returncode, (0, 3), result.stderr)  # 3: no device
        self.assertNotIn("warning", result.stderr)

    def test_keys(self):
        """`key: value` in docs/routing.md's table, and the keys after --set."""
        keys = re.findall(r"^  ([a-z_.]+)$", help_of("experiment"), re.M)
        last = {key.rsplit(".", 1)[-1] for key in keys} | {"capacity"}
        self.assertGreater(len(keys), 40)
        found = 0
        for code in re.findall(r"`([^`]+)`", (ROOT / "docs/routing.md").read_text(encoding="utf-8")):
            for key in re.findall(r"([a-z_.]+): ", code):
                found += 1
                self.assertTrue(key in keys or key in last, key)
        self.assertGreater(found, 30)
        for page in PAGES:
            for key in re.findall(r"--set\s+'?([a-z_.]+)=", page.read_text(encoding="utf-8")):
                self.assertIn(key, keys, page.name)

    def test_help_of_groups(self):
        """`moectl help results` names what results have of several devices and of the host's memory,
        and what is otherwise there than on one device."""
        text = " ".join(help_of("results").split())
        schema = json.loads((ROOT / "docs/results.schema.json").read_text(encoding="utf-8"))
        optional = set(schema["$defs"]["point"]["properties"]) - set(schema["$defs"]["point"]["required"])
        self.assertEqual(optional, {"parallel", "offload"})
        for name in (*optional, "members"):
            self.assertIn(f"`{name}`", text)
        self.assertIn("on several devices, which wait for each other's rows, what a forward takes", text)
        self.assertIn("forwards run one at a time", text)

    def test_options(self):
        for page in PAGES:
            for command, rest in re.findall(r"^(?:\$ )?moectl ([a-z]+)([^\n#]*)",
                                            page.read_text(encoding="utf-8"), re.M):
                options = help_of(command)
                for option in re.findall(r" (--[a-z-]+)", rest):
                    self.assertIn(f"\n  {option} ", options, f"{page.name}: moectl {command}{rest}")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
