/* Names of remote snapshots, and the shape of messages. */
#include "snapshot/remote.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* n bytes from 2 * n digits; with dashes where a uuid has them. */
static const char *read_hex(const char *s, uint8_t *out, unsigned n, bool dash)
{
	for (unsigned i = 0; s && i < n; i++) {
		int hi, lo;

		if (dash && (i == 4 || i == 6 || i == 8 || i == 10) &&
			*s++ != '-')
			return NULL;
		hi = hex_value(s[0]);
		lo = hi < 0 ? -1 : hex_value(s[1]);
		if (lo < 0)
			return NULL;
		out[i] = (uint8_t)(hi << 4 | lo);
		s += 2;
	}
	return s;
}

static void put_hex(const uint8_t digest[16], char out[33])
{
	for (unsigned i = 0; i < 16; i++)
		(void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

static bool is_port(const char *s, size_t len)
{
	unsigned v = 0;

	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return false;
		v = v * 10 + (unsigned)(s[i] - '0');
	}
	return len > 0 && len < 6 && v <= 65535;
}

/* Names and addresses; nothing that could mean something to anybody else. */
static bool is_host(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (s[i] <= ' ' || s[i] > '~' || strchr("/?#[]@\"'\\", s[i]))
			return false;
	}
	return true;
}

int remote_parse_peer(
	const char *text, size_t len, struct remote_name *out, struct err *e)
{
	const char *colon = memrchr(text, ':', len), *host = text;
	size_t n, plen;

	memset(out, 0, sizeof(*out));
	if (!colon)
		goto bad;
	n = (size_t)(colon - text);
	plen = len - n - 1;
	if (n && host[0] == '[') {
		if (host[n - 1] != ']')
			goto bad;
		host++;
		n -= 2;
	} else if (memchr(host, ':', n)) {
		goto bad;
	}
	if (n >= sizeof(out->host) || !is_host(host, n) ||
		!is_port(colon + 1, plen))
		goto bad;
	memcpy(out->host, host, n);
	memcpy(out->port, colon + 1, plen);
	return 0;
bad:
	return err_set(e, -EINVAL,
		"\"%.*s\" is not HOST:PORT (an IPv6 address: [ADDRESS]:PORT)",
		(int)min_u64(len, 100), text);
}

int remote_parse(const char *url, struct remote_name *out, struct err *e)
{
	const char *peer = url + strlen(REMOTE_SCHEME), *slash, *s;
	static const char key[] = "?digest=";
	int r;

	if (strncmp(url, REMOTE_SCHEME, strlen(REMOTE_SCHEME)) != 0)
		goto bad;
	slash = strchr(peer, '/');
	if (!slash)
		goto bad;
	r = remote_parse_peer(peer, (size_t)(slash - peer), out, e);
	if (r)
		return r;
	s = read_hex(slash + 1, out->file.uuid.b, 16, true);
	if (!s || !out->host[0])
		goto bad;
	if (strncmp(s, key, strlen(key)) != 0)
		return err_set(e, -EINVAL,
			"a remote snapshot needs its digest behind the uuid: "
			"?digest=HEX (thaw inspect prints it)");
	s = read_hex(s + strlen(key), out->file.digest, 16, false);
	if (!s || *s)
		return err_set(e, -EINVAL,
			"the digest of a remote snapshot is 32 hex digits");
	return 0;
bad:
	return err_set(e, -EINVAL,
		"a remote snapshot is tcp://HOST:PORT/UUID?digest=HEX");
}

void remote_peer(const struct remote_name *n, char out[REMOTE_PEER_MAX])
{
	bool v6 = strchr(n->host, ':') != NULL;

	(void)snprintf(out, REMOTE_PEER_MAX, "%s%s%s:%s", v6 ? "[" : "",
		n->host, v6 ? "]" : "", n->port);
}

void remote_url(const struct remote_name *n, char out[REMOTE_URL_MAX])
{
	char peer[REMOTE_PEER_MAX], uuid[SNAP_UUID_STR], digest[33];

	remote_peer(n, peer);
	snap_uuid_str(&n->file.uuid, uuid);
	put_hex(n->file.digest, digest);
	(void)snprintf(out, REMOTE_URL_MAX, REMOTE_SCHEME "%s/%s?digest=%s",
		peer, uuid, digest);
}

void remote_key(const struct remote_file *f, char out[REMOTE_KEY_MAX])
{
	char uuid[SNAP_UUID_STR], digest[33];

	snap_uuid_str(&f->uuid, uuid);
	put_hex(f->digest, digest);
	(void)snprintf(out, REMOTE_KEY_MAX, "%s-%s", uuid, digest);
}

/* ---- messages ---- */

const char *remote_check_hello(const struct remote_hello *h)
{
	if (memcmp(h->magic, REMOTE_MAGIC, sizeof(h->magic)) != 0)
		return "it is no thaw pager";
	if (h->version != REMOTE_VERSION)
		return "it speaks another version of the protocol";
	if (h->max_read < REMOTE_MAX_READ)
		return "it does not send as much at once as is asked for";
	return NULL;
}

const char *remote_check_request(const struct remote_request *q)
{
	if (q->type != REMOTE_STAT && q->type != REMOTE_READ)
		return "unknown type";
	if (q->reserved || q->part > REMOTE_PART_SET)
		return "unknown part or reserved field";
	if (q->type == REMOTE_STAT)
		return q->offset || q->length || q->part
			       ? "STAT has neither offset nor length"
			       : NULL;
	if (!q->length || q->length > REMOTE_MAX_READ)
		return "length out of range";
	return NULL;
}

const char *remote_check_answer(
	const struct remote_request *q, const struct remote_answer *a)
{
	if (a->type != q->type || a->id != q->id)
		return "an answer to another question";
	if (a->status >= REMOTE_NSTATUS_)
		return "an unknown status";
	if (a->status != REMOTE_OK)
		return a->length > REMOTE_MAX_TEXT ? "an error without end"
						   : NULL;
	if (q->type == REMOTE_READ)
		return a->length == q->length ? NULL : "a wrong length";
	if (a->length)
		return "a length that makes no sense";
	if (a->file_length > REMOTE_MAX_FILE || a->set_length > REMOTE_MAX_SET)
		return "a file that is too long";
	return NULL;
}
