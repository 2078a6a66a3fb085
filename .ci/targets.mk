# Targets for people: everything that is not a file.

MAKE_HERE = $(MAKE) --no-print-directory -j$(JOBS)

.PHONY: deps demo bench install clean lint format help

deps: ## install what a build and the tests need (Debian, as root)
	@.ci/deps.sh build check

# A fresh machine has no compiler yet: what is built must come after deps, in
# a make of its own that looks at the compiler again.
demo: deps ## build, boot, freeze, clone a thousand times
	@$(MAKE_HERE) all
	@PATH="$(abspath $(BUILD)):$$PATH" bench/demo.sh

bench: deps ## all benchmarks; writes bench/RESULTS.md
	@$(MAKE_HERE) all
	@PATH="$(abspath $(BUILD)):$$PATH" bench/run.sh

lint: ## formatting, static analysis, both compilers, house rules
	@.ci/deps.sh build check lint
	@.ci/lint.sh

format: ## clang-format all sources in place
	@git ls-files '*.c' '*.h' | xargs clang-format -i

# BINDIR and so on may be given one by one.
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include

install: all ## install into PREFIX (/usr/local), below DESTDIR
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR) $(DESTDIR)$(INCLUDEDIR)
	install $(PROGRAMS) $(DESTDIR)$(BINDIR)
	install -m 644 $(BUILD)/libthaw.a $(DESTDIR)$(LIBDIR)
	install -m 644 api/thaw.h $(DESTDIR)$(INCLUDEDIR)
	install $(BUILD)/libthaw.so $(DESTDIR)$(LIBDIR)/libthaw.so.0
	ln -sf libthaw.so.0 $(DESTDIR)$(LIBDIR)/libthaw.so

clean: ## remove all that was built
	rm -rf build build-*

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | \
		sort -u | expand -t 18
