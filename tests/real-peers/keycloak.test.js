import { setUpKeycloak, startKeycloak } from "./provider/keycloak.js";
import { guide } from "./guide.js";

guide("the guide against Keycloak", (uris) => setUpKeycloak(startKeycloak(process.env.KEYCLOAK_HOME, uris.directory), uris));
