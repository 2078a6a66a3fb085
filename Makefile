# thaw: see README.md. "make help" lists the targets.
#
#   V=1                    show commands
#   CC=clang               the other supported compiler
#   SAN=address,undefined  sanitizers, in a build directory of its own
#   SAN=thread
#   WERROR=                do not stop at warnings

SHELL := /bin/bash
ifeq ($(origin CC),default)
CC := gcc
endif
comma := ,
SAN ?=
BUILD := build$(if $(SAN),-$(subst $(comma),-,$(SAN)))
PREFIX ?= /usr/local
JOBS ?= $(shell nproc 2>/dev/null || echo 1)

include .ci/flags.mk

CORE_SRC := $(wildcard core/*.c core/arch/x86/*.c core/devices/*.c)
UFFD_SRC := $(wildcard uffd/*.c)
SNAP_SRC := $(wildcard snapshot/*.c)
# api/ itself is shared; its folders belong to one program each.
API_SRC := $(wildcard api/*.c)
THAWD_SRC := $(wildcard api/daemon/*.c)
MACHINE_SRC := $(wildcard api/machine/*.c)
CLI_SRC := $(wildcard api/cli/*.c) $(wildcard bench/*.c)
# libthaw must stand alone: the client and what it uses of core.
LIBTHAW_SRC := $(wildcard api/client/*.c) core/mp.c core/err.c core/util.c
ALL_SRC := $(sort $(CORE_SRC) $(UFFD_SRC) $(SNAP_SRC) $(API_SRC) $(THAWD_SRC) \
	$(MACHINE_SRC) $(CLI_SRC) $(LIBTHAW_SRC))

obj = $(patsubst %.c,$(BUILD)/%.o,$(1))
pic = $(patsubst %.c,$(BUILD)/pic/%.o,$(1))

BASE_LIB := $(BUILD)/libbase.a
BASE_OBJ := $(call obj,$(CORE_SRC) $(UFFD_SRC) $(SNAP_SRC) $(API_SRC)) \
	$(BUILD)/guest.o
PROGRAMS := $(BUILD)/thaw $(BUILD)/thawd $(BUILD)/thaw-machine
LIBRARIES := $(BUILD)/libthaw.a $(BUILD)/libthaw.so

ifeq ($(V),)
Q := @
say = @printf '  %-5s %s\n' $(1) $@
endif

.PHONY: all
all: $(PROGRAMS) $(LIBRARIES) $(BUILD)/thaw-agent ## build everything (the default)

$(BUILD)/%.o: %.c
	$(call say,CC)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/pic/%.o: %.c
	$(call say,CC)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(PIC_CFLAGS) -MMD -MP -c $< -o $@

$(BASE_LIB): $(BASE_OBJ)
	$(call say,AR)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

# One object whose internal names are local: they must not meet the names of
# whoever links the library.
$(BUILD)/libthaw.a: $(call pic,$(LIBTHAW_SRC))
	$(call say,AR)
	@rm -f $@
	$(Q)$(LD) -r $^ -o $(BUILD)/libthaw.o
	$(Q)$(OBJCOPY) --localize-hidden $(BUILD)/libthaw.o
	$(Q)$(AR) rcs $@ $(BUILD)/libthaw.o

$(BUILD)/libthaw.so: $(call pic,$(LIBTHAW_SRC))
	$(call say,LD)
	$(Q)$(CC) -shared $(SO_LDFLAGS) $^ -lmsgpackc -o $@
	@ln -sf libthaw.so $(BUILD)/libthaw.so.0

$(BUILD)/thawd: $(call obj,$(THAWD_SRC)) $(BASE_LIB)
$(BUILD)/thaw-machine: $(call obj,$(MACHINE_SRC)) $(BASE_LIB)
$(BUILD)/thaw: $(call obj,$(CLI_SRC)) $(BUILD)/libthaw.a $(BASE_LIB)
$(BUILD)/thaw: LDLIBS += $(IMAGE_LIBS)
$(PROGRAMS):
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

include core/guest/guest.mk
include core/guest/linux/agent.mk
include tests/tests.mk
# Targets for people.

MAKE_HERE = $(MAKE) --no-print-directory -j$(JOBS)

.PHONY: deps demo check check-unit bench install clean lint golden format help

deps: ## install what a build and the tests need (Debian, as root)
	@.ci/deps.sh build check

# A fresh machine has no compiler yet: what is built must come after deps, in
# a make of its own that looks at the compiler again.
demo: deps ## build, boot, freeze, clone a thousand times
	@$(MAKE_HERE) all
	@PATH="$(abspath $(BUILD)):$$PATH" bench/demo.sh

check: deps ## all tests, those for bugs of memory also with ASan and UBSan
	@$(MAKE_HERE) tests
	@$(MAKE_HERE) SAN=address,undefined san-tests
	@tests/check.sh $(UNIT_BIN) $(FUZZ_BIN) $(SAN_UNIT) $(SCRIPTS) -- $(KVM_BIN) $(SAN_KVM) $(E2E) -- $(LINUX)

check-unit: ## only the unit tests
	@$(MAKE_HERE) unit-tests
	@tests/run.sh $(UNIT_BIN) $(FUZZ_BIN)

bench: deps ## all benchmarks; writes bench/RESULTS.md
	@$(MAKE_HERE) all
	@PATH="$(abspath $(BUILD)):$$PATH" bench/run.sh

lint: ## formatting, static analysis, both compilers, house rules
	@.ci/deps.sh build check lint
	@.ci/lint.sh

golden: ## tests/golden/schema.txt, after a change of a state table
	@$(MAKE_HERE) $(BUILD)/tests/unit/test_schema
	@$(BUILD)/tests/unit/test_schema --write tests/golden/schema.txt

format: ## clang-format all sources in place
	@git ls-files '*.c' '*.h' | xargs clang-format -i

# BINDIR and so on may be given one by one.
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include

install: all ## install into PREFIX (/usr/local), below DESTDIR
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR) $(DESTDIR)$(INCLUDEDIR)
	install $(PROGRAMS) $(AGENT) $(DESTDIR)$(BINDIR)
	install -m 644 $(BUILD)/libthaw.a $(DESTDIR)$(LIBDIR)
	install -m 644 api/thaw.h $(DESTDIR)$(INCLUDEDIR)
	install $(BUILD)/libthaw.so $(DESTDIR)$(LIBDIR)/libthaw.so.0
	ln -sf libthaw.so.0 $(DESTDIR)$(LIBDIR)/libthaw.so

clean: ## remove all that was built
	rm -rf build build-*

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | \
		sort -u | expand -t 18

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
