# The commands of autojoin. Each installs what it needs first; see README.md.
STACK ?= dev
STACK_FILE ?= Pulumi.$(STACK).yaml
PYTHON ?= python3
# Expanded when a command runs, after its set-up: the virtual environment's Python.
IN_VENV = "$$($(PYTHON) tools/install.py python)" -m
TOOLS = $(PYTHON) tools/install.py install
# Two files at once, each with a lab; the longest is named first.
BESIDE = --numprocesses=2 --dist=loadfile --no-loadscope-reorder
# PLUGINS=folder: the resource plugins found there, in place of what would be installed.
AUTOJOIN_PLUGINS ?= $(if $(PLUGINS),$(abspath $(PLUGINS)))
export AUTOJOIN_PLUGINS

.PHONY: help up down ca-backup ca-restore drift graph new test machines preview check render move-lab tools env status lint golden bench conformance

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

up: ## bring the dev lab and its cluster up; safe to repeat; PLUGINS=folder with other resource plugins
	@$(TOOLS) all
	@$(IN_VENV) commands.lab up

down: ## destroy the cluster and stop the lab; ALL=1 also what dead checkouts left behind
	@$(TOOLS) engine
	@$(IN_VENV) commands.lab down $(if $(ALL),--all)

test: ## unit tests, and a cluster from up to down; FULL=1 every accident too, as CI; PLUGINS=folder as for up
	@$(TOOLS) $(if $(EDITS),edits,test)
	@AUTOJOIN_FUZZ_SECONDS=$(FUZZ) $(IN_VENV) commands.lab test $(TESTS)

machines: ## a virtual machine of each type, from power to its first pod: seconds for each step; FULL=1 power cuts and resets too
	@$(TOOLS) machines
	@$(IN_VENV) pytest tests/machines/test_debian.py tests/machines/test_[!d]*.py --capture=no $(BESIDE) $(if $(FULL),,-m "not full")

preview: ## what `pulumi up` of stack STACK would change, and a summary; JSON=1 for the summary alone
	@$(TOOLS) engine
	@$(IN_VENV) commands.preview "$(STACK)" $(if $(filter file,$(origin STACK_FILE)),,--file "$(STACK_FILE)") $(if $(JSON),--json)

check: ## every problem of stack STACK's config, or of STACK_FILE=path
	@$(TOOLS) check
	@$(IN_VENV) commands.lab check "$(STACK_FILE)"

new: ## a commented stack file for STACK=x, by questions or ARGS="--help"
	@$(TOOLS) check
	@$(IN_VENV) commands.new $(if $(filter file,$(origin STACK)),"",$(STACK)) $(ARGS)

ca-backup: ## an encrypted copy of stack STACK's CA into OUT=file; KEY=1 with its keys; PASSPHRASE_FILE=path
	@$(TOOLS) $(if $(shell grep -s "privateKey:" "$(STACK_FILE)"),engine,check)
	@$(IN_VENV) commands.ca_backup "$(STACK_FILE)" $(if $(OUT),--out "$(OUT)") $(if $(KEY),--keys) $(if $(PASSPHRASE_FILE),--passphrase-file "$(PASSPHRASE_FILE)")

ca-restore: ## FILE=backup onto stack STACK's fresh CA host; PASSPHRASE_FILE=path
	@$(TOOLS) $(if $(shell grep -s "privateKey:" "$(STACK_FILE)"),engine,check)
	@$(IN_VENV) commands.ca_restore "$(STACK_FILE)" "$(FILE)" $(if $(PASSPHRASE_FILE),--passphrase-file "$(PASSPHRASE_FILE)")

render: ## every file of stack STACK, or of STACK_FILE=path, into OUT=folder; SECRETS=show, CERTIFICATE=path
	@$(TOOLS) $(if $(filter show,$(SECRETS)),engine,check)
	@$(IN_VENV) commands.render "$(STACK_FILE)" "$(OUT)" $(if $(filter file,$(origin STACK)),,--stack "$(STACK)") $(if $(CERTIFICATE),--certificate "$(CERTIFICATE)") $(if $(SECRETS),--secrets "$(SECRETS)")

graph: ## draw stack STACK, or STACK_FILE=path, into OUT=lab.svg
	@$(TOOLS) check
	@$(IN_VENV) commands.graph "$(STACK_FILE)" "$(OUT)"

drift: ## what runs, compared with the config of stack STACK; changes nothing; JSON=1
	@$(TOOLS) engine
	@$(IN_VENV) commands.drift "$(STACK_FILE)" $(if $(JSON),--json)

move-lab: ## move the dev lab to a free network, or to NETWORK=10.65.0.0/24: rewrites Pulumi.dev.yaml
	@$(TOOLS) check
	@$(IN_VENV) commands.lab move $(NETWORK)

tools: ## install the pinned tools and the lab's machine image
	@$(TOOLS) all

env: ## print the environment to eval, for plain pulumi and kubectl; of STACK=x but the lab's PATH alone
	@$(TOOLS) engine >&2
	@$(IN_VENV) commands.lab env "$(STACK)"

status: ## how far each worker of stack STACK came, by the join gate and the API server, and how BGP is; JSON=1 for programs
	@$(TOOLS) engine
	@$(IN_VENV) commands.status $(STACK) --file $(STACK_FILE) $(if $(JSON),--json)

lint: ## ruff, mypy, and which room imports which
	@$(TOOLS) check
	@$(IN_VENV) commands.lab lint

golden: ## refresh the golden files; read the diff
	@$(TOOLS) test
	@$(IN_VENV) pytest tests/golden --refresh
	@REFRESH=1 $(IN_VENV) pytest tests/preview/test_summary.py

bench: ## every figure beside what it is measured against; FULL=1 for every row (under 40 minutes)
	@$(TOOLS) bench
	@$(IN_VENV) bench $(if $(FULL),--full) $(PART)

conformance: ## Kubernetes' conformance specs on a lab of their own, into docs/conformance.md; FOCUS=regexp: those alone
	@$(TOOLS) conformance
	@$(IN_VENV) commands.conformance $(if $(FOCUS),'$(FOCUS)')
