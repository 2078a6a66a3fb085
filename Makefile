# thaw: see README.md. "make help" lists the targets.

SHELL := /bin/bash
CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif

# SAN=address,undefined or SAN=thread: a sanitizer build in its own directory.
SAN ?=
BUILD := build$(if $(SAN),-$(subst $(comma),-,$(SAN)))
comma := ,
BUILD := build$(if $(SAN),-$(subst $(comma),-,$(SAN)))

include .ci/flags.mk

CORE_SRC := $(wildcard core/*.c core/arch/x86/*.c core/devices/*.c)
SNAP_SRC := $(wildcard snapshot/*.c)
UFFD_SRC := $(wildcard uffd/*.c)
# api/: rpc and libthaw are shared, the rest belongs to one executable each.
API_SRC  := $(wildcard api/*.c)
LIBTHAW_SRC := $(wildcard api/client/*.c)
THAWD_SRC   := $(wildcard api/daemon/*.c)
MACHINE_SRC := $(wildcard api/machine/*.c)
CLI_SRC     := $(wildcard api/cli/*.c) $(wildcard bench/*.c)

obj = $(patsubst %.c,$(BUILD)/%.o,$(1))

BASE_OBJ := $(call obj,$(CORE_SRC) $(SNAP_SRC) $(UFFD_SRC) $(API_SRC))
BASE_LIB := $(BUILD)/libbase.a
BASE_OBJ += $(BUILD)/guest.o
PROGRAMS := $(BUILD)/thaw $(BUILD)/thawd $(BUILD)/thaw-machine

.PHONY: all
all: $(PROGRAMS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(BASE_LIB): $(BASE_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libthaw.a: $(call obj,$(LIBTHAW_SRC))
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/thawd: $(call obj,$(THAWD_SRC)) $(BASE_LIB)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/thaw-machine: $(call obj,$(MACHINE_SRC)) $(BASE_LIB)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/thaw: $(call obj,$(CLI_SRC)) $(BUILD)/libthaw.a $(BASE_LIB)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

include core/guest/guest.mk
include tests/tests.mk
-include .ci/targets.mk

.PHONY: clean
clean:
	rm -rf build build-*

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
