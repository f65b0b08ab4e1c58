import { guide } from "./guide.js";
import { startOidcProvider } from "./provider/oidc_provider.js";

guide("the guide against oidc-provider", startOidcProvider);
